"""RefCOCO, RefCOCO+ and RefCOCOg as the REFER tool kit publishes them.

Layout: Refer_Segm/<set>/refs(<by>).p, a pickle of references; instances.json, COCO annotations; and
photos of COCO in Refer_Segm/coco_2014/train2014. Every sentence of every reference is a sample; the
reference code of Seg-R1 chooses one sentence per photo at random.
"""

import json
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.data.sets.published import PublishedSet, require_file, require_folder
from segr1_jax.data.truth_masks import CocoSegmentation, Truth, Unusable
from segr1_jax.errors import UserError

ROOT = "Refer_Segm"
PHOTOS = "coco_2014/train2014"
OWN = ("refcoco", "refcoco+", "refcocog", "coco_2014")


class _DataOnly(pickle.Unpickler):
    """Unpickler of plain data only: lists, dicts, texts and numbers.

    These need no import. A pickle that imports something could run any program.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it imports {module}.{name}")


def read_refer(name: str, refs_file: str, root: Path, split: str) -> FileSource:
    """Read one sample per sentence, named `<ref_id>-<sent_id>`.

    References without a sentence or an annotation are bad samples.

    Raises:
        UserError: a file is missing, the pickle holds more than plain data, the annotations are not
            a COCO file, or the split is empty.
    """
    folder = require_folder(root / ROOT / name, OWN)
    photos = require_folder(root / ROOT / PHOTOS, OWN)
    refs_path = require_file(folder / refs_file)
    instances_path = require_file(folder / "instances.json")
    instances = _read_instances(instances_path)
    entries = []
    for position, ref in enumerate(_read_refs(refs_path)):
        try:
            if ref["split"] == split:
                entries += _entries(ref, instances, instances_path, photos)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            got = f"reference {position}: {type(error).__name__} {error}"
            raise _malformed(refs_path, got) from error
    if not entries:
        raise UserError(
            str(refs_path),
            expected=f"references of the split {split!r}",
            got="none",
            remedy="use a split of this file, or the file of another annotator",
        )
    source = FileSource(entries)
    if repeated := [name for name, count in Counter(source.names).items() if count > 1]:
        raise _malformed(refs_path, f"sentence {repeated[0]} (ref_id-sent_id) more than once")
    return source


def _entries(ref: Mapping, instances: Mapping, where: Path, photos: Path) -> Iterator[Entry]:
    """Yield the samples of one reference."""
    image = instances["images"].get(ref["image_id"])
    file = photos / (image["file_name"] if image else f"COCO_train2014_{ref['image_id']:012d}.jpg")
    truth = _truth(ref, image, instances["annotations"].get(ref["ann_id"]), where)
    if not ref["sentences"]:
        yield Entry(f"{ref['ref_id']:d}-none", file, _without_sentence(ref, where))
    for sentence in ref["sentences"]:
        text = sentence["sent"].strip()
        # The format :d accepts only whole numbers, because names become paths.
        name = f"{ref['ref_id']:d}-{sentence['sent_id']:d}"
        sentence_truth = truth if text else _without_sentence(ref, where)
        yield Entry(name, file, sentence_truth, instruction=f"{text}.")


def _without_sentence(ref: Mapping, where: Path) -> Unusable:
    place = f"{where.parent.name} reference {ref['ref_id']}"
    return Unusable(UserError(place, expected="sentences", got="none", remedy="leave it out"))


def _truth(ref: Mapping, image: Mapping | None, annotation: Mapping | None, where: Path) -> Truth:
    for kind, record in (("image", image), ("ann", annotation)):
        if record is None:
            number = ref[f"{kind}_id"]
            return Unusable(
                UserError(
                    str(where),
                    expected=f"{kind}_id {number} of reference {ref['ref_id']}",
                    got="none",
                    remedy="use REFER's original file",
                )
            )
    return CocoSegmentation(
        where=f"{where}: annotation {ref['ann_id']}",
        segmentation=annotation.get("segmentation"),
        height=image["height"],
        width=image["width"],
    )


def _read_refs(path: Path) -> list[Mapping]:
    try:
        with path.open("rb") as file:
            refs = _DataOnly(file, encoding="utf-8").load()
    # A damaged pickle can raise any exception. No code of the pickle has run.
    except Exception as error:
        raise _malformed(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise _malformed(path, f"a {type(refs).__name__} that is not a list of references")
    return refs


def _read_instances(path: Path) -> dict[str, dict[int, Mapping]]:
    try:
        tree = json.loads(path.read_bytes())
        instances = {
            part: {item["id"]: item for item in tree[part]} for part in ("images", "annotations")
        }
        # Raise here for a missing field or one of another type.
        for image in instances["images"].values():
            int(image["height"]), int(image["width"]), Path(image["file_name"])
        return instances
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(
            str(path),
            expected="COCO annotations (images, annotations)",
            got=got,
            remedy="copy the file again",
        ) from error


def _malformed(path: Path, got: str) -> UserError:
    return UserError(
        str(path),
        expected="a pickle of REFER's references, with plain data only",
        got=got[:300],
        remedy="use REFER's original file",
    )


def _set(title: str, folder: str, refs_file: str, counts: Mapping[str, int]) -> PublishedSet:
    return PublishedSet(
        title=title,
        folder=f"{ROOT}/{folder}",
        kind="referring",
        counts=counts,
        read=partial(read_refer, folder, refs_file),
    )


# The counts are numbers of sentences.
REFER_SETS = {
    "refcoco": _set(
        "RefCOCO",
        "refcoco",
        "refs(unc).p",
        {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},
    ),
    "refcoco_plus": _set(
        "RefCOCO+",
        "refcoco+",
        "refs(unc).p",
        {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},
    ),
    "refcocog": _set(
        "RefCOCOg", "refcocog", "refs(umd).p", {"train": 80512, "val": 4896, "test": 9602}
    ),
}
"""Referring sets by their names in data.set."""

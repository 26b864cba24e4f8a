"""All published layouts with a few synthetic samples, for tests of the readers and trial runs."""

import io
import itertools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.data.config import DataConfig
from segr1_jax.data.general_benchmarks import write_toy_benchmarks
from segr1_jax.data.sets.fcot import FOLDER as FCOT
from segr1_jax.data.sets.pairs import PAIR_SETS, Pair
from segr1_jax.data.sets.reasonseg import REASONSEG
from segr1_jax.data.sets.refer import PHOTOS, REFER_SETS, ROOT
from segr1_jax.data.synthetic import generate, scene, sentences
from segr1_jax.errors import UserError
from segr1_jax.types import Example

SAMPLES = 4  # per split
SIZE = 168  # pixels: the frame of the quickstart's policy
IGNORED = ((0, 0), (20, 0), (20, 20), (0, 20))  # a ReasonSeg region that metrics ignore
JPEG_QUALITY = 95
OWN = "mine"  # the folder of the manifests


def write_toy_sets(root: Path, *, seed: int = 0) -> None:
    """Write all published layouts, and manifests of own images, below `root`.

    The same seed gives the same bytes. Raises UserError unless `root` is new or empty.
    """
    if root.exists() and any(root.iterdir()):
        raise UserError(
            str(root),
            expected="an empty or new folder",
            got="a folder with files",
            remedy="choose another",
        )
    # The readers are partial functions: their arguments hold the folders and files of a set.
    pictures = _pictures(seed)
    for name, published in PAIR_SETS.items():
        for pair in published.read.args[0].values():
            _write_pairs(root / published.folder, pair, pictures, name)
    for published in REFER_SETS.values():
        name = published.folder.removeprefix(f"{ROOT}/")
        _write_refer(root, name, published.read.args[1], list(published.counts), pictures)
    for split in REASONSEG.counts:
        _write_reasonseg(root / REASONSEG.folder / split, pictures)
    _write_fcot(root / FCOT / "data", pictures)
    photos = [_photo(generate(*next(pictures)).image) for _ in range(SAMPLES // 2)]
    write_toy_benchmarks(root, photos)
    for split in ("train", "held_out"):
        _write_manifest(root / OWN, split, pictures)


def _pictures(seed: int) -> Iterator[tuple[DataConfig, int]]:
    """Yield (config, index) of synthetic pictures, each once, so that no two samples share one."""
    config = DataConfig(size=SIZE, count=100_000, max_objects=2, seed=seed)
    for index in itertools.count():
        yield config, index


def _write_pairs(folder: Path, pair: Pair, pictures: Iterator, name: str) -> None:
    images = folder / pair.images
    masks = folder / pair.masks[-1]
    for part in (images, masks):
        part.mkdir(parents=True, exist_ok=True)
    for number in range(SAMPLES):
        config, index = next(pictures)
        example = generate(config, index)
        stem = f"{name}_{index:05d}"
        _save_photo(images / f"{stem}.jpg", example.image)
        _save_mask(masks / f"{stem}.png", example.mask)
        # A picture that the reader must leave out.
        if pair.leave_out and not number:
            _save_photo(images / f"{pair.leave_out}_{stem}.jpg", example.image)
            _save_mask(masks / f"{pair.leave_out}_{stem}.png", example.mask)


def _write_refer(
    root: Path, name: str, refs_file: str, splits: list[str], pictures: Iterator
) -> None:
    """Write references of one object and two sentences each.

    The first segmentation of a split is a polygon.
    """
    folder = root / ROOT / name
    photos = root / ROOT / PHOTOS
    for part in (folder, photos):
        part.mkdir(parents=True, exist_ok=True)
    refs, images, annotations = [], [], []
    for split in splits:
        for number in range(SAMPLES // 2):
            config, index = next(pictures)
            picture = scene(config, index)
            target, sentence = sentences(picture.masks, picture.colors)[0]
            file = f"COCO_train2014_{index:012d}.jpg"
            _save_photo(photos / file, picture.image)
            images.append({"id": index, "file_name": file, "height": SIZE, "width": SIZE})
            segmentation = _segmentation(picture.masks[target], number)
            annotations.append({"id": index, "image_id": index, "segmentation": segmentation})
            refs.append(_reference(index, split, sentence))
    (folder / refs_file).write_bytes(pickle.dumps(refs, protocol=2))
    instances = {"images": images, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(instances))


def _reference(index: int, split: str, sentence: str) -> dict:
    texts = (sentence, f"{sentence} there")
    return {
        "ref_id": index,
        "ann_id": index,
        "image_id": index,
        "split": split,
        "sentences": [{"sent": text, "sent_id": 2 * index + k} for k, text in enumerate(texts)],
    }


def _segmentation(mask_HW: Bool[np.ndarray, "H W"], number: int):
    """Return a COCO segmentation of a mask.

    It is the bounding box as a polygon for sample 0, and the mask as compressed run lengths for the
    others.
    """
    coco = optional_package("pycocotools.mask", "eval")
    if number == 0:
        left, top, right, bottom = map(float, _box(mask_HW))
        return [[left, top, right, top, right, bottom, left, bottom]]
    code = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def _write_reasonseg(folder: Path, pictures: Iterator) -> None:
    """Write samples with the object's bounding box as the target, an ignored corner and a note.

    Questions and phrases alternate.
    """
    folder.mkdir(parents=True)
    for number in range(SAMPLES):
        config, index = next(pictures)
        example = generate(config, index)
        # The outline of a polygon belongs to it, so its corners are pixels of the object.
        left, top, right, bottom = _box(example.mask)
        corners = [
            [left, top],
            [right - 1, top],
            [right - 1, bottom - 1],
            [left, bottom - 1],
        ]
        shapes = [
            {"label": "target", "points": corners},
            {"label": "ignore", "points": [list(corner) for corner in IGNORED]},
            {"label": "flag", "points": []},
        ]
        text = (
            "Which thing stands out from the noise?" if number % 2 else "the object that stands out"
        )
        _save_photo(folder / f"{index:05d}.jpg", example.image)
        record = {"text": [text], "is_sentence": bool(number % 2), "shapes": shapes}
        (folder / f"{index:05d}.json").write_text(json.dumps(record))


def _write_fcot(folder: Path, pictures: Iterator) -> None:
    arrow = optional_package("pyarrow", "eval")
    parquet = optional_package("pyarrow.parquet", "eval")
    folder.mkdir(parents=True)
    rows = []
    for _ in range(SAMPLES):
        config, index = next(pictures)
        example = generate(config, index)
        image = {"bytes": _photo(example.image), "path": f"{index}.jpg"}
        rows.append({"image": image, "problem": "Segment it."} | _reasoned(example))
    # Two row groups, so that a reader crosses the end of one.
    parquet.write_table(
        arrow.Table.from_pylist(rows),
        folder / "train-00000-of-00001.parquet",
        row_group_size=SAMPLES - 1,
    )


def _write_manifest(folder: Path, split: str, pictures: Iterator) -> None:
    """Write own images as README describes them: a line with image, mask and sentence for each."""
    for part in ("photos", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = []
    for _ in range(SAMPLES):
        config, index = next(pictures)
        picture = scene(config, index)
        target, sentence = sentences(picture.masks, picture.colors)[0]
        line = {"image": f"photos/{index}.jpg", "mask": f"masks/{index}.png"}
        _save_photo(folder / line["image"], picture.image)
        _save_mask(folder / line["mask"], picture.masks[target])
        lines.append(json.dumps(line | {"instruction": sentence}) + "\n")
    (folder / f"{split}.jsonl").write_text("".join(lines))


def _reasoned(example: Example) -> dict[str, str]:
    """Return thinking and solution about the object, in pixels of the image."""
    left, top, right, bottom = _box(example.mask)
    middle = f"[{(left + right) // 2},{(top + bottom) // 2}]"
    box = f"<bbox>[{left},{top},{right},{bottom}]</bbox>"
    solution = f"{box}, <points>[{middle}]</points>, <labels>[1]</labels>"
    return {"thinking": f"<think>it lies around {middle}</think>", "solution": solution}


def _box(mask_HW: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the object; the last two are just outside it."""
    y, x = np.nonzero(mask_HW)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def _save_photo(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    path.write_bytes(_photo(image))


def _photo(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _save_mask(path: Path, mask_HW: Bool[np.ndarray, "H W"]) -> None:
    Image.fromarray(mask_HW.astype(np.uint8) * 255).save(path)

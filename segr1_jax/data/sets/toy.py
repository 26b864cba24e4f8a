"""Every published layout at toy size, drawn from the synthetic set: what the readers are tested on, and a table can be tried with."""

import io
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
SIZE = 168  # pixels: what the quickstart's policy looks at
IGNORED = ((0, 0), (20, 0), (20, 20), (0, 20))  # a ReasonSeg region that no metric counts
JPEG_QUALITY = 95
OWN = "mine"  # the folder of the manifests


def write_toy_sets(root: Path, *, seed: int = 0) -> None:
    """Write all layouts and a manifest of one's own below `root`, which must not exist or be empty; the same bytes for the same seed."""
    if root.exists() and any(root.iterdir()):
        raise UserError(
            str(root),
            expected="an empty or new folder",
            got="one with files",
            remedy="choose another",
        )
    pictures = _pictures(seed)
    for name, found in PAIR_SETS.items():
        for pair in found.read.args[0].values():
            _write_pairs(root / found.folder, pair, pictures, name)
    for found in REFER_SETS.values():
        _write_refer(
            root,
            found.folder.removeprefix(f"{ROOT}/"),
            found.read.args[1],
            list(found.counts),
            pictures,
        )
    for split in REASONSEG.counts:
        _write_reasonseg(root / REASONSEG.folder / split, pictures)
    _write_fcot(root / FCOT / "data", pictures)
    write_toy_benchmarks(
        root, [_photo(generate(*next(pictures)).image) for _ in range(SAMPLES // 2)]
    )
    for split in ("train", "held_out"):
        _write_manifest(root / OWN, split, pictures)


def _pictures(seed: int) -> Iterator[tuple[DataConfig, int]]:
    """(config, index) of one synthetic picture after the other, so that no two samples share one."""
    config, index = DataConfig(size=SIZE, count=100_000, max_objects=2, seed=seed), 0
    while True:
        yield config, index
        index += 1


def _write_pairs(folder: Path, pair: Pair, pictures: Iterator, name: str) -> None:
    images, masks = folder / pair.images, folder / pair.masks[-1]
    for part in (images, masks):
        part.mkdir(parents=True, exist_ok=True)
    for number in range(SAMPLES):
        config, index = next(pictures)
        example = generate(config, index)
        stem = f"{name}_{index:05d}"
        _save_photo(images / f"{stem}.jpg", example.image)
        _save_mask(masks / f"{stem}.png", example.mask)
        if pair.leave_out and not number:  # a picture that must not be counted
            _save_photo(images / f"{pair.leave_out}_{stem}.jpg", example.image)
            _save_mask(masks / f"{pair.leave_out}_{stem}.png", example.mask)


def _write_refer(
    root: Path, name: str, refs_file: str, splits: list[str], pictures: Iterator
) -> None:
    """References of one object each, two sentences; the first segmentation of a split is a polygon."""
    folder, photos = root / ROOT / name, root / ROOT / PHOTOS
    for part in (folder, photos):
        part.mkdir(parents=True, exist_ok=True)
    refs, images, annotations = [], [], []
    for split in splits:
        for number in range(SAMPLES // 2):
            config, index = next(pictures)
            picture = scene(config, index)
            target, sentence = sentences(picture.masks, picture.colours)[0]
            file = f"COCO_train2014_{index:012d}.jpg"
            _save_photo(photos / file, picture.image)
            images.append({"id": index, "file_name": file, "height": SIZE, "width": SIZE})
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "segmentation": _segmentation(picture.masks[target], number),
                }
            )
            said = [
                {"sent": text, "sent_id": 2 * index + k}
                for k, text in enumerate((sentence, f"{sentence} there"))
            ]
            refs.append(
                {
                    "ref_id": index,
                    "ann_id": index,
                    "image_id": index,
                    "split": split,
                    "sentences": said,
                }
            )
    (folder / refs_file).write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )


def _segmentation(mask_HW: Bool[np.ndarray, "H W"], number: int):
    """The mask as COCO writes it: its bounding box as a polygon, or the mask itself as compressed run lengths."""
    coco = optional_package("pycocotools.mask", "eval")
    if number == 0:
        left, top, right, bottom = map(float, _box(mask_HW))
        return [[left, top, right, top, right, bottom, left, bottom]]
    code = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def _write_reasonseg(folder: Path, pictures: Iterator) -> None:
    """The object's bounding box as the target, a corner to be ignored, a note; questions and phrases take turns."""
    folder.mkdir(parents=True)
    for number in range(SAMPLES):
        config, index = next(pictures)
        example = generate(config, index)
        left, top, right, bottom = _box(example.mask)
        corners = [
            [left, top],
            [right - 1, top],
            [right - 1, bottom - 1],
            [left, bottom - 1],
        ]  # outlines belong to polygons
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
    arrow, parquet = (
        optional_package("pyarrow", "eval"),
        optional_package("pyarrow.parquet", "eval"),
    )
    folder.mkdir(parents=True)
    rows = []
    for _ in range(SAMPLES):
        config, index = next(pictures)
        example = generate(config, index)
        content = _photo(example.image)
        rows.append(
            {"image": {"bytes": content, "path": f"{index}.jpg"}, "problem": "Segment it."}
            | _reasoned(example)
        )
    parquet.write_table(
        arrow.Table.from_pylist(rows),
        folder / "train-00000-of-00001.parquet",
        row_group_size=SAMPLES - 1,
    )


def _write_manifest(folder: Path, split: str, pictures: Iterator) -> None:
    """Images of one's own, as README describes them: a line with image, mask and sentence for each."""
    for part in ("photos", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = []
    for _ in range(SAMPLES):
        config, index = next(pictures)
        picture = scene(config, index)
        target, sentence = sentences(picture.masks, picture.colours)[0]
        line = {"image": f"photos/{index}.jpg", "mask": f"masks/{index}.png"}
        _save_photo(folder / line["image"], picture.image)
        _save_mask(folder / line["mask"], picture.masks[target])
        lines.append(json.dumps(line | {"instruction": sentence}) + "\n")
    (folder / f"{split}.jsonl").write_text("".join(lines))


def _reasoned(example: Example) -> dict[str, str]:
    """Thinking and solution about the object, in pixels of the image."""
    left, top, right, bottom = _box(example.mask)
    middle = f"[{(left + right) // 2},{(top + bottom) // 2}]"
    solution = f"<bbox>[{left},{top},{right},{bottom}]</bbox>, <points>[{middle}]</points>, <labels>[1]</labels>"
    return {"thinking": f"<think>it lies around {middle}</think>", "solution": solution}


def _box(mask_HW: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the object; the latter two just outside it."""
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

"""Foreground sets: a folder of images beside a folder of masks with the same file stems."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segr1_jax.data.file_entries import Entry, FileSource, pictures_by_stem
from segr1_jax.data.sets.published import PublishedSet, require_folder
from segr1_jax.data.truth_masks import MaskFile
from segr1_jax.errors import UserError


@dataclass(frozen=True)
class Pair:
    """Folders of images and masks, relative to the folder of the set.

    Of several `masks` the first that exists is used; all but the first are shared by the splits.
    Files whose stem contains `leave_out` are not samples.
    """

    images: str
    masks: tuple[str, ...]
    leave_out: str | None = None


def read_pairs(splits: Mapping[str, Pair], folder: str, root: Path, split: str) -> FileSource:
    """Read one sample per image, named by its stem.

    An image without a mask remains as a bad sample, so that it is reported and not silently lost.
    """
    pair = splits[split]
    base = require_folder(root / folder)
    own = {
        part
        for other in splits.values()
        for path in (other.images, *other.masks)
        for part in Path(path).parts
    }
    images = _kept(require_folder(base / pair.images, own), pair.leave_out)
    masks_folder = next((name for name in pair.masks if (base / name).is_dir()), pair.masks[0])
    masks = _kept(require_folder(base / masks_folder, own), pair.leave_out)
    entries = [
        Entry(stem, path, MaskFile(masks[stem]) if stem in masks else None)
        for stem, path in images.items()
    ]
    # A folder that splits share has masks of other splits: those are not surplus.
    is_shared = masks_folder != pair.masks[0]
    surplus = () if is_shared else (path for stem, path in masks.items() if stem not in images)
    return FileSource(entries, tuple(surplus))


def _kept(folder: Path, leave_out: str | None) -> dict[str, Path]:
    """Return the pictures of a folder by stem, without those to leave out."""
    pictures = {
        stem: path
        for stem, path in pictures_by_stem(str(folder), folder).items()
        if leave_out is None or leave_out not in stem
    }
    if not pictures:
        raise UserError(
            str(folder), expected="at least one picture", got="none", remedy="copy the files there"
        )
    return pictures


def _set(title: str, folder: str, splits: Mapping[str, tuple[Pair, int]]) -> PublishedSet:
    """Return the set with these splits, each a pair of folders and its published count."""
    pairs = {name: pair for name, (pair, _) in splits.items()}
    return PublishedSet(
        title=title,
        folder=folder,
        kind="foreground",
        counts={name: count for name, (_, count) in splits.items()},
        read=partial(read_pairs, pairs, folder),
    )


def _dis(part: str) -> Pair:
    return Pair(f"{part}/im", (f"{part}/gt",))


def _cod10k(part: str) -> Pair:
    # The NonCAM half of the set shows no camouflaged object.
    return Pair(f"{part}/Image", (f"{part}/GT_Object",), leave_out="NonCAM")


def _camo(part: str) -> Pair:
    # GT is one folder as published; a script of the reference code splits it.
    return Pair(f"Images/{part}", (f"GT/{part}", "GT"))


def _duts(part: str) -> Pair:
    return Pair(f"{part}/{part}-Image", (f"{part}/{part}-Mask",))


PAIR_SETS = {
    "dis5k": _set(
        "DIS5K",
        "DIS5K",
        {"train": (_dis("DIS-TR"), 3000), "vd": (_dis("DIS-VD"), 470)}
        | {f"te{n}": (_dis(f"DIS-TE{n}"), 500) for n in range(1, 5)},
    ),
    "cod10k": _set(
        "COD10K", "COD10K-v3", {"train": (_cod10k("Train"), 3040), "test": (_cod10k("Test"), 2026)}
    ),
    "camo": _set(
        "CAMO",
        "CAMO-V.1.0-CVIU2019",
        {"train": (_camo("Train"), 1000), "test": (_camo("Test"), 250)},
    ),
    "duts": _set(
        "DUTS", "DUTS", {"train": (_duts("DUTS-TR"), 10553), "test": (_duts("DUTS-TE"), 5019)}
    ),
    "dut_omron": _set(
        "DUT-OMRON",
        "DUT-OMRON",
        {"test": (Pair("DUT-OMRON-image", ("pixelwiseGT-new-PNG",)), 5168)},
    ),
    "hku_is": _set("HKU-IS", "HKU-IS", {"test": (Pair("imgs", ("gt",)), 4447)}),
    "ecssd": _set("ECSSD", "ECSSD", {"test": (Pair("images", ("ground_truth_mask",)), 1000)}),
}
"""Foreground sets by their names in data.set."""

"""Given masks: find the picture of each sample."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from segr1_jax.common.picture_formats import picture_suffixes
from segr1_jax.data.file_entries import FileSource, pictures_below
from segr1_jax.data.pictures import picture_key
from segr1_jax.data.sources import Source
from segr1_jax.errors import UserError
from segr1_jax.metrics.predictions import MASKS, Prediction, mask_name

OPTION = "--predictions"


def given_masks(folder: Path, source: Source) -> dict[str, Path]:
    """Return the pictures below `folder` by the names of their samples.

    A picture matches a sample if its path is the sample's name, as in the masks of an evaluation,
    or the path of the sample's image without the suffix. Otherwise it matches by file stem,
    provided that the stem is unique both in the set and below `folder` and that the sample or the
    picture is not in a subfolder. A picture of no sample is returned under its own path.

    Raises:
        UserError: no such folder, one picture for several samples, several pictures for one
            sample, an image of the set in the place of a mask.
    """
    given = pictures_below(OPTION, folder)
    names = list(dict.fromkeys(source.names))
    found: dict[str, str] = {}
    for place_of in (_as_written, _without_suffix):
        taken = set(found.values())
        places = {name: place_of(name) for name in names if name not in found}
        here = {name: place for name, place in places.items() if place in given.keys() - taken}
        _require_one_owner(folder, here)
        found |= here
    found |= _by_stem(folder, names, given, found)
    _require_no_image({name: given[place] for name, place in found.items()}, source)
    surplus = given.keys() - set(found.values())
    return {place: given[place] for place in surplus} | {
        name: given[place] for name, place in found.items()
    }


def require_own_masks(predictions: Iterable[Prediction], where: Path) -> None:
    """Raise UserError if a mask is outside the folder of its lines, or has two samples."""
    owners: dict[str, str] = {}
    for prediction in predictions:
        if prediction.mask is None:
            continue
        place = os.path.normpath(prediction.mask)
        if os.path.isabs(place) or place.split("/")[0] == "..":
            raise UserError(
                str(where),
                expected=f"masks below {where.parent}",
                got=f"{prediction.mask} for sample {prediction.name}",
                remedy="copy the whole folder of the evaluation",
            )
        other = owners.setdefault(place, prediction.name)
        if other != prediction.name:
            raise UserError(
                str(where),
                expected="a mask of its own for each sample",
                got=f"{place} of {other} and {prediction.name}",
                remedy="evaluate the set again",
            )


def _as_written(name: str) -> str:
    """Return the path of a mask as an evaluation writes it, below its folder of masks."""
    return mask_name(name).removeprefix(f"{MASKS}/").removesuffix(".png")


def _without_suffix(name: str) -> str:
    """Return a name without the suffix of its image, which samples of a manifest have."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in picture_suffixes() else name


def _require_one_owner(folder: Path, places: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    for name, place in places.items():
        if place in owners:
            _refuse(folder, place, [owners[place], name], [place])
        owners[place] = name


def _by_stem(
    folder: Path, names: Sequence[str], given: dict[str, Path], found: dict[str, str]
) -> dict[str, str]:
    """Match the samples that are not in `found` by file stem."""
    samples, pictures = _grouped(names), _grouped(given)
    taken = set(found.values())
    chosen = {}
    for name in names:
        if name in found:
            continue
        stem = _stem(name)
        near = [
            place
            for place in pictures.get(stem, ())
            if place not in taken and ("/" not in place or "/" not in name)
        ]
        if near and len(samples[stem]) + len(pictures[stem]) > 2:
            _refuse(folder, stem, samples[stem], pictures[stem])
        if near:
            chosen[name] = near[0]
    return chosen


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_stem(name), []).append(name)
    return groups


def _stem(name: str) -> str:
    return PurePosixPath(_without_suffix(name)).name


def _refuse(folder: Path, what: str, names: Sequence[str], places: Sequence[str]) -> None:
    raise UserError(
        str(folder),
        expected=f"one sample and one picture for {what!r}",
        got=f"the samples {_both(names)} and the pictures {_both(places)}",
        remedy="lay each mask at the path of its sample",
    )


def _both(names: Sequence[str]) -> str:
    return " and ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _require_no_image(found: dict[str, Path], source: Source) -> None:
    """Raise UserError if a given mask is an image of the set itself."""
    if not isinstance(source, FileSource):
        return
    images = {picture_key(entry.image) for entry in source.entries}
    for name, path in found.items():
        if os.path.abspath(path) in images:
            raise UserError(
                OPTION,
                expected="a folder of masks",
                got=f"{path}, the image of {name}",
                remedy="give the folder of the masks alone",
            )

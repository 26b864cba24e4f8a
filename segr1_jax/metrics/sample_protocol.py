"""Protocols: the predictions that count, and the samples that they are scored on.

The standard one scores every sample once; the other one chooses as the reference code does: a mask
of the sample before, one sentence per photo, samples drawn with replacement, ignored regions as
background. It does not reproduce the following behavior of the reference code: BGR images and their
resizing (segr1_jax/reward/legacy.py reproduces it for rewards), scoring stale masks of earlier
runs, generation with a repetition penalty, and prompting SAM2 on ReasonSeg with only the first box
and all points. The last would need new masks, but a protocol only selects among existing ones.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from segr1_jax.metrics.predictions import Prediction

SEED = 0  # the reference code's draws are unseeded: any one of them is as good


@dataclasses.dataclass(frozen=True)
class Counted:
    """A prediction and the index of its sample, with ignored pixels left out or as background."""

    index: int
    prediction: Prediction
    leave_out: bool = True


def every_sample(predictions: Sequence[Prediction], kind: str) -> list[Counted]:
    """Count each sample once, with its own prediction."""
    return [Counted(index, prediction) for index, prediction in enumerate(predictions)]


def as_the_reference_code(predictions: Sequence[Prediction], kind: str) -> list[Counted]:
    """Select samples as the reference code does.

    Foreground: an answer without a mask is scored with the mask of the sample before. Referring:
    one sentence, at random, per photo. Reasoning: as many draws with replacement as there are
    images, with ignored regions as background.
    """
    return {
        "foreground": _with_old_masks,
        "referring": _one_sentence_per_photo,
        "reasoning": _drawn,
    }[kind](predictions)


def _with_old_masks(predictions: Sequence[Prediction]) -> list[Counted]:
    counted, mask = [], None
    for index, prediction in enumerate(predictions):
        mask = prediction.mask or mask
        counted.append(Counted(index, dataclasses.replace(prediction, mask=mask)))
    return counted


def _one_sentence_per_photo(predictions: Sequence[Prediction]) -> list[Counted]:
    rng, photos = np.random.default_rng(SEED), defaultdict(list)
    for index, prediction in enumerate(predictions):
        photos[prediction.photo].append(index)
    return [
        Counted(index, predictions[index])
        for indices in photos.values()
        for index in [int(rng.choice(indices))]
    ]


def _drawn(predictions: Sequence[Prediction]) -> list[Counted]:
    draws = np.random.default_rng(SEED).integers(len(predictions), size=len(predictions))
    return [Counted(int(index), predictions[index], leave_out=False) for index in draws]


PROTOCOLS: dict[str, Callable[[Sequence[Prediction], str], list[Counted]]] = {
    "standard": every_sample,
    "reference": as_the_reference_code,
}
"""Protocols by their names in --protocol."""

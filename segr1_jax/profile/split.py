"""Share of prefill and decoding in the time of a rollout."""

from dataclasses import dataclass

from segr1_jax.profile.recorder import Recorder


@dataclass(frozen=True)
class Split:
    """Seconds of a step in the prefill and in decoding, each block waited for.

    `turns` is the number of decoded tokens of the longest completion.
    """

    prefill: float
    decode: float
    turns: float


def split_rollout(recorder: Recorder, steps: int) -> Split:
    """Return the means over the timed steps."""
    prefill, block = recorder.seen["sample_prefill"], recorder.seen["sample_block"]
    totals = sum(prefill.seconds), sum(block.seconds), sum(block.turns)
    return Split(*(total / steps for total in totals))

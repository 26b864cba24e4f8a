"""Which example stands at which position: a pure function, the same for every process count and after every resume.

A position counts samples from the start of training over all processes; epoch = position // size.
"""

import functools

import numpy as np
from jaxtyping import Int


def example_index(seed: int, position: int, size: int, attempt: int = 0) -> int:
    """Index of the example at `position` in a set of `size`: the whole set is shuffled anew each epoch, then read in order.

    When that example turns out bad, attempts 1, 2, ... name its replacements: drawn from (seed, position, attempt) alone, so a bad
    file moves no other sample and every process count replaces it by the same one.

    Example:
        >>> sorted(example_index(seed=7, position=p, size=4) for p in range(4))
        [0, 1, 2, 3]
    """
    epoch, offset = divmod(position, size)
    if attempt == 0:
        return int(_permutation(seed, epoch, size)[offset])
    return int(np.random.default_rng((seed, position, attempt)).integers(size))


def process_positions(start: int, process: int, processes: int) -> range:
    """The positions from `start` on that `process` of `processes` loads: every `processes`-th, without end."""
    return range(start + process, 2**62, processes)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng((seed, epoch)).permutation(size)

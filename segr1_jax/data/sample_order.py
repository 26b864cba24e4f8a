"""Order of samples: a pure function, the same for every process count and after every resume.

A position counts samples from the start of training over all processes; epoch = position // size.

Shape legend: N examples of the set.
"""

import functools

import numpy as np
from jaxtyping import Int


def example_index(seed: int, position: int, size: int, attempt: int = 0) -> int:
    """Return the index of the example at `position` in a set of `size`.

    The whole set is shuffled again for each epoch. Attempts 1, 2, ... are the replacements of a bad
    example. They are sampled from (seed, position, attempt) alone, so a bad file moves no other
    sample, and its replacement is the same for every process count.

    Example:
        >>> sorted(example_index(seed=7, position=p, size=4) for p in range(4))
        [0, 1, 2, 3]
    """
    epoch, offset = divmod(position, size)
    if attempt == 0:
        return int(_permutation(seed, epoch, size)[offset])
    return int(np.random.default_rng((seed, position, attempt)).integers(size))


def process_positions(start: int, process: int, processes: int) -> range:
    """Return the positions from `start` that a process loads: every `processes`-th, without end."""
    return range(start + process, 2**62, processes)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng((seed, epoch)).permutation(size)

"""Hashes of arrays: by content, computed once while the array is alive."""

import gc

import numpy as np

from segr1_jax.reward import digests
from segr1_jax.reward.digests import Digests


def test_by_shape_type_and_bytes():
    known, zeros = Digests(), np.zeros((4, 6), np.uint8)
    same, other = zeros.copy(), zeros.copy()
    other[3, 5] = 1
    assert known.of(zeros) == known.of(same)
    assert known.of(np.zeros((8, 12), np.uint8)[::2, ::2]) == known.of(zeros)
    others = [other, zeros.reshape(6, 4), zeros.astype(bool)]
    assert len({known.of(zeros), *map(known.of, others)}) == 4


def test_once_for_an_array_and_again_for_another_in_its_place(monkeypatch):
    counted, known = [], Digests()
    plain = digests._hash
    monkeypatch.setattr(digests, "_hash", lambda array: counted.append(1) or plain(array))
    array = np.arange(6)
    assert known.of(array) == known.of(array)
    assert len(counted) == 1
    for number in range(50):  # some of them get the id of one that is gone
        array = np.full(6, number)
        assert known.of(array) == plain(np.full(6, number))
    del array
    gc.collect()
    assert not known._known, "nothing is kept of arrays that are gone"

import mmap

from hypothesis import given
from hypothesis import strategies as st

from segr1_jax.reward.transport.shared_memory import STEP, Arena

REGION = 64 * STEP


def test_same_key_shares_a_block_until_room_is_needed():
    arena = Arena(mmap.mmap(-1, REGION))
    first = arena.put(b"x" * 100, "a")
    assert arena.put(b"x" * 100, "a") == first
    arena.release(first)
    arena.release(first)
    assert arena.put(b"x" * 100, "a") == first  # idle, still there
    assert arena.put(bytes(REGION)) is None  # never fits
    arena.release(first)
    assert arena.reserve(REGION - STEP) is not None  # takes the idle block's place too
    assert arena.reserve(1) is None


def test_unused_blocks_stay_within_their_budget():
    arena = Arena(mmap.mmap(-1, REGION), idle_bytes=2 * STEP)
    offsets = [arena.put(bytes(STEP), key) for key in "abc"]
    for offset in offsets:
        arena.release(offset)
    assert arena.put(bytes(STEP), "d") == offsets[0]  # only the longest unused made room
    assert [arena.put(bytes(STEP), key) for key in "bc"] == offsets[1:]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(1, 20 * STEP), st.sampled_from([None, "a", "b", "c"])
        ),
        max_size=60,
    )
)
def test_held_blocks_keep_their_bytes_and_all_room_comes_back(steps):
    region = mmap.mmap(-1, REGION)
    arena, held = Arena(region), []
    for action, size, key in steps:
        if action == 0 and held:
            offset, _ = held.pop(size % len(held))
            arena.release(offset)
            continue
        data = (key or "z").encode() * (size if key is None else STEP)
        offset = arena.put(data, key)
        if offset is not None:
            held.append((offset, data))
        for at, content in held:
            assert region[at : at + len(content)] == content
    for offset, _ in held:
        arena.release(offset)
    assert arena.reserve(REGION - STEP) is not None

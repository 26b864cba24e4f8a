import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.prompts_block import WirePrompt, pack_prompts, unpack_prompts
from segr1_jax.reward.transport.protocol import (
    Hello,
    Kind,
    ProtocolError,
    Reply,
    Request,
)

REGION = 1 << 20
GOOD = Request(
    Kind.SCORE,
    seq=7,
    digest=bytes(range(16)),
    image_at=64,
    mask_at=30064,
    prompts_at=40128,
    result_at=41024,
    height=100,
    width=100,
    mask_height=99,
    mask_width=101,
    prompts=2,
    prompts_bytes=88,
    mask_digest=bytes(range(16, 32)),
)
BAD_FIELDS = [
    ({"seq": 0}, "sequence"),
    ({"image_at": 0}, "outside the region"),
    ({"image_at": REGION - 29999}, "outside the region"),
    ({"mask_at": 2**63}, "outside the region"),
    ({"height": 0}, "image of 0x100"),
    ({"width": 2**31}, "image of"),
    ({"prompts": 10**6}, "prompts"),
    ({"prompts_bytes": REGION}, "outside the region"),
    ({"result_at": REGION - 8}, "outside the region"),
    ({"mask_height": 0}, "truth of 0x101"),
    ({"mask_width": 2**31}, "truth of"),
    ({"mask_height": 2**15}, "outside the region"),
]


def test_records_round_trip():
    assert protocol.unpack_request(protocol.pack_request(GOOD), REGION) == GOOD
    reply = Reply(9, 0.25, 0.5, 1.5, 2.5)
    assert protocol.unpack_reply(protocol.pack_reply(reply)) == reply
    hello = Hello("1.2.3", "1.1.0")
    assert protocol.unpack_hello(protocol.pack_hello(hello)) == hello


@pytest.mark.parametrize(("change", "message"), BAD_FIELDS)
def test_a_request_that_points_outside_is_refused(change, message):
    with pytest.raises(ProtocolError, match=message):
        protocol.unpack_request(protocol.pack_request(GOOD._replace(**change)), REGION)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(record):
    for unpack in (
        protocol.unpack_reply,
        protocol.unpack_hello,
        lambda r: protocol.unpack_request(r, REGION),
    ):
        with pytest.raises(ProtocolError):
            unpack(record)


@given(st.data())
def test_a_corrupted_request_is_refused_or_still_lies_inside(data):
    record = bytearray(protocol.pack_request(GOOD))
    for at in data.draw(st.lists(st.integers(0, len(record) - 1), min_size=1, max_size=8)):
        record[at] = data.draw(st.integers(0, 255))
    try:
        request = protocol.unpack_request(bytes(record), REGION)
    except ProtocolError:
        return
    size = request.height * request.width
    ends = [request.image_at + size * 3]
    if request.kind is Kind.SCORE:
        truth = request.mask_height * request.mask_width
        ends += [request.mask_at + truth, request.prompts_at + request.prompts_bytes]
        if request.result_at:
            ends.append(request.result_at + protocol.packed_bytes(request.height, request.width))
    assert max(ends) <= REGION


@given(st.data())
def test_a_corrupted_reply_is_refused_or_holds_scores(data):
    record = bytearray(protocol.pack_reply(Reply(9, 0.25, 0.5, 1.5, 2.5)))
    for at in data.draw(st.lists(st.integers(0, len(record) - 1), min_size=1, max_size=8)):
        record[at] = data.draw(st.integers(0, 255))
    try:
        reply = protocol.unpack_reply(bytes(record))
    except ProtocolError:
        return
    assert 0 <= reply.iou <= 1.001
    assert 0 <= reply.s_measure <= 1.001


def _prompts():
    number = st.floats(-1e4, 1e4, width=32)
    box = st.none() | st.lists(number, min_size=4, max_size=4).map(
        lambda v: np.array(v, np.float32)
    )
    points = st.lists(st.tuples(number, number, st.integers(0, 1)), max_size=5)

    def build(pair):
        box, rows = pair
        points = np.array([row[:2] for row in rows], np.float32).reshape(-1, 2)
        return WirePrompt(box, points, np.array([row[2] for row in rows], np.int32))

    return st.lists(
        st.tuples(box, points).map(build).filter(lambda p: p.box is not None or len(p.labels)),
        max_size=4,
    )


@given(_prompts())
def test_prompts_round_trip(prompts):
    again = unpack_prompts(pack_prompts(prompts), len(prompts))
    for a, b in zip(prompts, again, strict=True):
        assert (a.box is None) == (b.box is None)
        if a.box is not None:
            np.testing.assert_array_equal(a.box, b.box)
        np.testing.assert_array_equal(a.points, b.points)
        np.testing.assert_array_equal(a.labels, b.labels)


@given(_prompts(), st.data())
def test_corrupted_prompts_are_refused_or_sane(prompts, data):
    block = bytearray(pack_prompts(prompts))
    if block:
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    block = bytes(block)[: data.draw(st.integers(0, len(block)))]
    try:
        again = unpack_prompts(block, data.draw(st.integers(0, 6)))
    except ProtocolError:
        return
    assert all(np.isfinite(p.points).all() and np.isin(p.labels, (0, 1)).all() for p in again)


def test_the_region_is_sealed_against_change_of_size():
    fd, region = protocol.create_region(1 << 16)
    for size in (1 << 15, 1 << 17):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    shared = protocol.open_region(fd)
    protocol.set_working(shared, 42)
    assert protocol.get_working(region) == 42
    unsealed = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 4096)
    with pytest.raises(ProtocolError, match="not sealed"):
        protocol.open_region(unsealed)
    for descriptor in (fd, unsealed):
        os.close(descriptor)

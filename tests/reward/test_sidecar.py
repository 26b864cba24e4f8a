"""The sidecar end to end, with the nano SAM2, against the same functions called in this process."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segr1_jax.errors import UserError
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.scores import capped_size, iou, resize_nearest, s_measure
from segr1_jax.reward.sidecar.embeddings import EmbeddingCache
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2
from segr1_jax.reward.sidecar.server import DamagedBlock, Server
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.prompts_block import pack_prompts
from segr1_jax.reward.transport.protocol import Kind, Request
from segr1_jax.types import ScoreStatus

GONE_S = 5.0  # a sidecar must have ended this long after its trainer
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(reward_config):
    with RewardClient(reward_config) as client:
        yield client


@pytest.fixture(scope="module")
def sam2():
    return Sam2(build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False))


@pytest.fixture(scope="module")
def expected(requests, sam2):
    """(iou, s_measure, mask) of every request, computed here."""
    masks = [sam2.decode(sam2.encode(r.image), r.prompts) for r in requests]
    return [(iou(m, r.mask), s_measure(m, r.mask), m) for m, r in zip(masks, requests, strict=True)]


def _assert_equal(scores, requests, expected):
    assert len(scores) == len(requests)
    for score, request, (want_iou, want_s, want_mask) in zip(
        scores, requests, expected, strict=True
    ):
        assert score.status is ScoreStatus.OK
        assert (score.iou, score.s_measure) == (want_iou, want_s)
        assert (score.mask is not None) == request.want_mask
        if request.want_mask:
            np.testing.assert_array_equal(score.mask, want_mask)


def test_scores_equal_direct_computation_and_an_image_is_encoded_once(client, requests, expected):
    before = client.stats()
    for request in requests[:3]:
        client.encode(request.image)
    tickets = [client.submit(requests[:10]), client.submit([]), client.submit(requests[10:])]
    assert client.collect(tickets[1]) == []
    later, first = client.collect(tickets[2]), client.collect(tickets[0])
    _assert_equal(first + later, requests, expected)
    figures = client.stats().figures_since(before)
    assert figures["encodes"] == len({r.image.tobytes() for r in requests})
    assert figures["scores"] == len(requests)
    assert figures["queue_depth"] == 0


def test_the_room_is_what_the_queue_has_left(requests):
    with RewardClient(RewardConfig(queue=5)) as client:
        assert client.room() == 5
        os.kill(client.sidecar_pids[0], signal.SIGSTOP)
        ticket = client.submit(requests[:3])
        assert client.room() == 2
        os.kill(client.sidecar_pids[0], signal.SIGCONT)
        client.collect(ticket)
        assert client.room() == 5


def test_large_images_are_scored_at_the_cap(requests, sam2):
    request = requests[8]
    height, width = request.mask.shape
    blocks = [
        request.image,
        request.mask,
        np.frombuffer(pack_prompts(request.prompts), np.uint8),
    ]
    image_at, mask_at, prompts_at, result_at = np.cumsum(
        [protocol.HEADER_BYTES, *(b.nbytes for b in blocks)]
    ).tolist()
    _, region = protocol.create_region(result_at + width * height)
    for at, block in zip((image_at, mask_at, prompts_at), blocks, strict=True):
        region[at : at + block.nbytes] = block.tobytes()
    size = (height, width)
    record = Request(
        Kind.SCORE,
        1,
        b"x" * 16,
        image_at,
        mask_at,
        prompts_at,
        result_at,
        *size,
        *size,
        len(request.prompts),
        blocks[2].nbytes,
        *(protocol.checksum(block.tobytes()) for block in blocks),
    )
    reply = Server(sam2, region, EmbeddingCache("cpu", 1 << 20), max_side=width // 2).answer(record)
    small = capped_size(size, width // 2)
    mask = sam2.decode(sam2.encode(request.image), request.prompts, small)
    assert small == (height // 2, width // 2)
    assert reply.iou == iou(mask, resize_nearest(request.mask, small))
    returned = np.unpackbits(
        np.frombuffer(region, np.uint8)[result_at:], count=height * width
    ).reshape(size)
    np.testing.assert_array_equal(returned, resize_nearest(mask, size))


def test_the_truth_of_a_group_is_read_once_and_another_one_is_read_anew(sam2):
    """A truth block damaged after its first use does not matter; that of another digest does."""
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    truths = rng.random((2, 80, 120)) < 0.5
    prompts = pack_prompts(())
    at = protocol.HEADER_BYTES
    _, region = protocol.create_region(1 << 16)
    region[at : at + image.nbytes] = image.tobytes()
    mask_at = at + image.nbytes
    server = Server(sam2, region, EmbeddingCache("cpu", 1 << 20), max_side=60)

    def answer(truth, digest):
        sums = [protocol.checksum(block) for block in (image, truth, prompts)]
        sides = (40, 60, 80, 120)
        prompts_at = mask_at + truth.nbytes
        head = Request(Kind.SCORE, 1, b"i" * 16, at, mask_at, prompts_at, 0, *sides, 0, 0, *sums)
        return server.answer(head._replace(mask_digest=digest * 16))

    empty = np.zeros((40, 60), bool)
    for truth, digest in ((truths[0], b"a"), (truths[1], b"b")):
        region[mask_at : mask_at + truth.nbytes] = truth.tobytes()
        want = s_measure(empty, resize_nearest(truth, (40, 60)))
        assert answer(truth, digest).s_measure == want
    region[mask_at : mask_at + 100] = bytes(100)
    assert answer(truths[0], b"a").s_measure == s_measure(
        empty, resize_nearest(truths[0], (40, 60))
    )
    with pytest.raises(DamagedBlock):
        answer(truths[0], b"c")


def test_neither_death_nor_order_nor_cache_changes_a_score(requests, expected):
    shuffled = np.random.default_rng(3).permutation(len(requests))
    batch, answers = [requests[k] for k in shuffled], [expected[k] for k in shuffled]
    with RewardClient(RewardConfig(request_timeout_s=4, cache_mb=0)) as client:
        for blow in (signal.SIGKILL, signal.SIGSTOP):
            ticket = client.submit(batch)
            os.kill(client.sidecar_pids[0], blow)
            _assert_equal(client.collect(ticket), batch, answers)
        totals = client.stats().totals
    assert totals["restarts"] == 2
    assert totals["quarantined"] == 0
    assert totals["scores"] == totals["encodes"] == 2 * len(requests)


TRAINER = """
import sys, time
import numpy as np
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport.prompts_block import pack_prompts
from segr1_jax.reward.transport.protocol import Kind, Request
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2
client = RewardClient(RewardConfig())
client.start()
client.encode(np.zeros((100, 100, 3), np.uint8))
print(client.sidecar_pids[0], flush=True)
time.sleep(60)
"""


def test_a_killed_trainer_leaves_no_sidecar_and_no_shared_memory():
    shared_before = set(os.listdir("/dev/shm"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, text=True, env=environment
    ) as trainer:
        sidecar = int(trainer.stdout.readline())
        assert _alive(sidecar)
        trainer.kill()
    deadline = time.monotonic() + GONE_S
    while _alive(sidecar) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(sidecar)
    assert not {name for name in set(os.listdir("/dev/shm")) - shared_before if "segr1" in name}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_sidecar_that_cannot_start_says_why():
    with pytest.raises(
        UserError, match=r"reward\.sam2_checkpoint=absent\.pt, got absent\.pt: expected SAM2"
    ):
        RewardClient(RewardConfig(sam2_checkpoint="absent.pt")).start()
    with pytest.raises(UserError, match=r"no/such/python"):
        RewardClient(RewardConfig(python="no/such/python")).start()


def test_the_sidecar_needs_no_package_of_the_trainer():
    heavy = "{'jax', 'jaxtyping', 'torch', 'flax'} & set(sys.modules)"
    code = f"import sys, segr1_jax.reward.sidecar.server, segr1_jax.reward.scores; print({heavy})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "set()"


def unchecked(request, **changes):
    """A copy with fields that the record's own annotations would refuse while testing."""
    copied = replace(request)
    for name, value in changes.items():
        object.__setattr__(copied, name, value)
    return copied


def test_requests_that_cannot_be_scored_are_refused_before_they_are_sent(client, requests):
    good = requests[2]
    nan = replace(good.prompts[0], box=np.full(4, np.nan, np.float32))
    for bad, message in (
        (unchecked(good, mask=good.mask[:0]), "bool mask"),
        (unchecked(good, mask=good.mask.astype(np.uint8)), "bool mask"),
        (unchecked(good, image=good.image[..., 0]), "RGB"),
        (replace(good, prompts=(nan,)), "nan"),
        (replace(good, prompts=(replace(good.prompts[0], box=None),)), "neither box nor points"),
    ):
        with pytest.raises(UserError, match=message):
            client.submit([good, bad])
    assert client.stats().totals["queue_depth"] == 0

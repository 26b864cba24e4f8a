"""Embeddings kept and dropped, and a device whose memory does not suffice.

Its allocator is replaced by a strict one.
"""

import itertools
import json
import os

import numpy as np
import pytest
import torch
from random_prompts import random_prompt

from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.sidecar.embeddings import EmbeddingCache, EmbeddingFiles, fingerprint
from segr1_jax.reward.sidecar.model_files import (
    NANO_CHECKPOINT,
    NANO_CONFIG,
    build_model,
    model_tree,
)
from segr1_jax.reward.sidecar.sam2_model import Embedding, Sam2
from segr1_jax.reward.sidecar.server import Notes, Server, Settings, _files
from segr1_jax.reward.sidecar.tier import Tier
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.command import settings_json
from segr1_jax.reward.transport.protocol import Kind, Request

MAP_BYTES = 4 * 16


def embedding(value: float) -> Embedding:
    return Embedding((torch.full((1, 1, 4, 4), float(value)),), (8, 8))


@pytest.fixture(scope="module")
def model():
    return build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False)


def test_a_tier_drops_the_oldest_and_never_exceeds_its_budget():
    tier = Tier(2 * MAP_BYTES)
    assert tier.put(b"a", embedding(1)) == tier.put(b"b", embedding(2)) == []
    assert tier.put(b"a", tier.take(b"a")) == []  # used again: b is the oldest now
    assert [digest for digest, _ in tier.put(b"c", embedding(3))] == [b"b"]
    assert tier.take(b"b") is None
    assert [digest for digest, _ in Tier(MAP_BYTES - 1).put(b"d", embedding(4))] == [b"d"]
    assert [digest for digest, _ in tier.empty()] == [b"a", b"c"]
    assert tier.put(b"e", embedding(5)) == tier.put(b"f", embedding(6)) == []


def test_what_leaves_the_device_is_found_on_the_host_and_on_disk(tmp_path):
    files = EmbeddingFiles(tmp_path, "model", 1 << 20, print)
    cache = EmbeddingCache("cpu", MAP_BYTES, MAP_BYTES, files)
    for digest, value in ((b"a", 1.0), (b"b", 2.0), (b"c", 3.0)):
        cache.put(digest, embedding(value))
    assert [cache.get(digest).features[0][0, 0, 0, 0].item() for digest in (b"c", b"b", b"a")] == [
        3.0,
        2.0,
        1.0,
    ]
    cache.leave_device()
    assert cache.get(b"a").features[0].unique().item() == 1.0
    assert EmbeddingCache("cpu", 0).get(b"a") is None
    later = EmbeddingCache("cpu", MAP_BYTES, 0, EmbeddingFiles(tmp_path, "model", 1 << 20, print))
    assert later.get(b"b").size == (8, 8)
    assert EmbeddingFiles(tmp_path, "another model", 1 << 20, print).read(b"b") is None


def test_files_stay_under_their_budget_and_a_damaged_one_is_made_anew(tmp_path, capsys):
    one = EmbeddingFiles(tmp_path, "size", 1 << 20, print)
    one.write(b"a", embedding(0))
    size = next((tmp_path / "size").iterdir()).stat().st_size
    files = EmbeddingFiles(tmp_path, "model", 3 * size, print)
    for number in range(6):
        files.write(bytes([number]), embedding(number))
    kept = sorted(path.stem for path in (tmp_path / "model").iterdir())
    assert len(kept) == 3
    path = tmp_path / "model" / f"{kept[0]}.pt"
    path.write_bytes(path.read_bytes()[: size // 2])
    assert files.read(bytes.fromhex(kept[0])) is None
    assert not path.exists()
    assert "damaged" in capsys.readouterr().out


def test_a_flipped_bit_in_a_file_is_found(tmp_path):
    notes = []
    files = EmbeddingFiles(tmp_path, "model", 1 << 20, notes.append)
    for at in range(0, 2000, 97):
        files.write(b"a", embedding(1))
        (path,) = (tmp_path / "model").iterdir()
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= 1
        path.write_bytes(content)
        assert files.read(b"a") is None
        assert not path.exists()
        assert "damaged" in notes.pop()
        assert not notes


def test_a_file_under_another_name_is_not_used(tmp_path):
    files = EmbeddingFiles(tmp_path, "model", 1 << 20, lambda note: None)
    files.write(b"a", embedding(1))
    (path,) = (tmp_path / "model").iterdir()
    path.rename(path.with_name(b"b".hex() + ".pt"))
    assert files.read(b"b") is None


def test_a_failed_write_switches_the_files_off_and_leaves_nothing(tmp_path, monkeypatch):
    notes = []
    files = EmbeddingFiles(tmp_path, "model", 1 << 20, notes.append)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    files.write(b"a", embedding(1))
    files.write(b"b", embedding(2))
    assert files.read(b"a") is None
    assert len(notes) == 1
    assert "full" in notes[0]
    assert not list((tmp_path / "model").iterdir())


def test_several_sidecars_stay_under_one_budget(tmp_path):
    one = EmbeddingFiles(tmp_path, "size", 1 << 20, lambda note: None)
    one.write(b"a", embedding(0))
    size = next((tmp_path / "size").iterdir()).stat().st_size
    several = [EmbeddingFiles(tmp_path, "model", 8 * size, lambda note: None) for _ in range(4)]
    for number in range(32):
        several[number % 4].write(bytes([number]), embedding(number))
    assert len(list((tmp_path / "model").iterdir())) == 8


def test_the_fingerprint_knows_weights_architecture_and_facts(model):
    tree = model_tree(NANO_CONFIG, postprocessing=False)
    before = fingerprint(model, tree, "cpu")
    assert before == fingerprint(model, tree, "cpu") != fingerprint(model, tree, "cuda")
    assert fingerprint(model, tree | {"image_size": tree["image_size"] * 2}, "cpu") != before
    first = next(model.parameters())
    with torch.no_grad():
        first.view(-1)[0] += 1e-3
        assert fingerprint(model, tree, "cpu") != before
        first.view(-1)[0] -= 1e-3


def test_the_sidecars_folder_depends_on_all_that_changes_an_embedding(model, tmp_path):
    """Another image_size, dtype or number of threads (sums in another order) has its own folder."""
    config = RewardConfig(cache_dir=str(tmp_path / "cache"))
    larger = tmp_path / "larger.yaml"
    larger.write_text(NANO_CONFIG.read_text().replace("image_size: ", "image_size: 2"))
    settings = Settings(**json.loads(settings_json(config, 3, 4)))
    several = (
        settings,
        settings._replace(config=str(larger)),
        settings._replace(dtype="bfloat16"),
        settings._replace(threads=2),
    )
    for one in several:
        _files(one, Sam2(model), Notes())
    assert len(list((tmp_path / "cache").iterdir())) == len(several)


def test_too_large_a_decode_batch_is_halved_and_the_mask_stays(model, monkeypatch, capsys):
    """A batch of 5 where only 2 fit: 5 -> 2 + 3 -> 2 + 1 + 2.

    Batches of another size may differ in last bits, not here in the mask.
    """
    rng, image = (
        np.random.default_rng(0),
        np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8),
    )
    prompts = [random_prompt(rng, 90, 120, box=True, points=2) for _ in range(5)]
    roomy, tight = Sam2(model, decode_batch=5), Sam2(model, decode_batch=5)
    sizes, decode = [], tight._decode_batch

    def strict(embedding, coords, labels, size):
        sizes.append(len(coords))
        if len(coords) > 2:
            raise torch.OutOfMemoryError("no room")
        return decode(embedding, coords, labels, size)

    monkeypatch.setattr(tight, "_decode_batch", strict)
    held = roomy.encode(image)
    np.testing.assert_array_equal(tight.decode(held, prompts), roomy.decode(held, prompts))
    assert sizes == [5, 2, 3, 1, 2]
    assert tight.retries == 2
    assert "out of memory" in capsys.readouterr().err


def test_an_image_that_does_not_fit_beside_the_cached_ones_moves_them_away(model, monkeypatch):
    sam2 = Sam2(model)
    cache = EmbeddingCache("cpu", 1 << 24, 1 << 24)
    _, region = protocol.create_region(1 << 16)
    server = Server(sam2, region, cache, 1024)
    zeros = protocol.checksum(bytes(40 * 40 * 3))
    requests = [
        Request(Kind.ENCODE, seq, bytes([seq]) * 16, 64, 0, 0, 0, 40, 40, 0, 0, 0, 0, zeros)
        for seq in (1, 2)
    ]
    assert server.answer(requests[0]).retries == 0
    encode, calls = sam2.encode, itertools.count()

    def strict(image):
        if next(calls) == 0:
            raise torch.OutOfMemoryError("no room")
        return encode(image)

    monkeypatch.setattr(sam2, "encode", strict)
    reply = server.answer(requests[1])
    assert reply.retries == 1
    assert cache._device.take(b"\1" * 16) is None  # it is on the host now
    assert cache.get(b"\1" * 16) is not None
    monkeypatch.setattr(
        sam2, "encode", lambda image: (_ for _ in ()).throw(torch.OutOfMemoryError("never"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        server.answer(requests[0]._replace(digest=b"new one" + b"0" * 9))

"""SAM2 in the sidecar: encoding and decoding, alone and beside products of JAX on the same device.

Without a checkpoint the weights are random. Times of a request are those that the sidecar reports.
"""

import dataclasses
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from first_day_parts.request import answer_in
from gpu_parts.request import Add, Request, attempt, random_keys

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport.gpus import placed_here
from segr1_jax.types import ScoreRequest

RANDOM_SAM2 = Path(__file__).with_name("random_sam2.py")
# An import of torch from a cold disk takes long.
ASK_TIMEOUT_S = 60
IMPORTS = "import torch, sam2"
NEEDS_GPU = "; assert torch.cuda.is_available(), 'torch finds no GPU'"
IMAGES, TOY_IMAGES = 8, 1
SIDE, TOY_SIDE = 756, 84
# Rows and columns of the matrices that JAX multiplies beside SAM2.
PRODUCT, TOY_PRODUCT = 8192, 256


def measure(request: Request, add: Add) -> None:
    """Add a row for SAM2 alone, for products alone, and for both at once."""
    if lacking := obstacle(request.config.reward):
        add({"name": "SAM2", "skipped": lacking})
        return
    request.prepare_jax()
    load = Products(TOY_PRODUCT if request.toy else PRODUCT)
    images = TOY_IMAGES if request.toy else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        config = placed_here(request.config.reward)
        config = dataclasses.replace(config, sidecars=1, device=config.devices[0])
        config = with_weights(config, Path(folder))
        with RewardClient(config) as client:
            scored = Scored(client, request)
            scored.images(1)
            attempt(add, "SAM2 alone", lambda: scored.images(images))
            attempt(add, "products alone", lambda: load.beside(lambda: time.sleep(1.0)))
            attempt(add, "SAM2 and products", lambda: load.beside(lambda: scored.images(images)))


def obstacle(config: RewardConfig) -> str:
    """Return why the interpreter of the sidecar cannot run SAM2, or an empty string."""
    code = IMPORTS + (NEEDS_GPU if "cuda" in config.device else "")
    command = [config.python or sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def with_weights(config: RewardConfig, folder: Path) -> RewardConfig:
    """Return `config` with random weights in `folder` where its checkpoint is absent."""
    if not config.sam2_config or Path(config.sam2_checkpoint or "missing").is_file():
        return config
    weights = folder / "random.pt"
    command = [config.python or sys.executable, RANDOM_SAM2, config.sam2_config, weights]
    subprocess.run(list(map(str, command)), check=True)
    return dataclasses.replace(config, sam2_checkpoint=str(weights))


class Scored:
    """Groups of answers about new images, scored by a client."""

    def __init__(self, client: RewardClient, request: Request):
        self._client, self._group = client, request.config.rollout.group
        self._data = DataConfig(size=TOY_SIDE if request.toy else SIDE)
        self._index = 0

    def images(self, count: int) -> dict:
        """Score a group about each of `count` images; return the seconds of each kind of work."""
        before, requests = self._client.stats().totals, []
        for _ in range(count):
            example = generate(self._data, self._index)
            prompts = sam_prompts(answer_in(example.frame), example.frame)
            requests += [ScoreRequest(example.image, example.mask, prompts)] * self._group
            self._index += 1
        began = time.perf_counter()
        self._client.collect(self._client.submit(requests))
        seconds = time.perf_counter() - began
        done = Counter(self._client.stats().totals)
        done.subtract(before)
        return {
            "images": count,
            "encode_s": done["encode_s"] / done["encodes"],
            "decode_s": done["decode_s"] / done["scores"],
            "seconds_per_image": seconds / count,
        }


class Products:
    """Products of JAX that follow each other in a thread."""

    def __init__(self, side: int):
        self._a, self._b = (
            jax.random.normal(key, (side, side), jnp.bfloat16) for key in random_keys(2)
        )
        self._multiply = jax.jit(jnp.matmul)
        self._flops = 2 * side**3
        jax.block_until_ready(self._multiply(self._a, self._b))

    def beside(self, work) -> dict:
        """Return the figures of `work`, and the FLOP/s of the products during it."""
        stop, times = threading.Event(), []

        def multiply() -> None:
            while not stop.is_set():
                began = time.perf_counter()
                jax.block_until_ready(self._multiply(self._a, self._b))
                times.append(time.perf_counter() - began)

        thread = threading.Thread(target=multiply)
        thread.start()
        try:
            row = work() or {}
        finally:
            stop.set()
            thread.join()
        return row | {"flops_per_s": self._flops / float(np.mean(times))}

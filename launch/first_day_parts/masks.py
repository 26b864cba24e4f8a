"""Compare masks of the sidecar with SAM2ImagePredictor: same photos, prompts and precision."""

import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from first_day_parts.request import Request, Row, answer_in, verdict
from jaxtyping import Bool

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.common.interpreters import interpreter_of_torch
from segr1_jax.errors import UserError
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.scores import iou
from segr1_jax.reward.transport.command import model_settings
from segr1_jax.reward.transport.gpus import placed_here
from segr1_jax.types import ScoreRequest

REFERENCE = Path(__file__).with_name("reference_masks.py")
# The least IoU. Pixels on an outline change with the batch size.
MIN_IOU = {"float32": 0.999, "bfloat16": 0.98}


def measure(request: Request) -> list[Row]:
    """Return one row with the IoU of every photo."""
    requests = [
        ScoreRequest(
            image=example.image,
            mask=np.ones(example.image.shape[:2], bool),
            prompts=sam_prompts(answer_in(example.frame), example.frame),
            want_mask=True,
        )
        for example in request.examples()
    ]
    config = placed_here(request.config.reward).at_native_size()
    config = dataclasses.replace(config, sidecars=1, device=config.devices[0])
    with RewardClient(config) as client:
        ours = [score.mask for score in client.collect(client.submit(requests))]
    return [compare(ours, _reference(config, requests), config)]


def compare(
    ours: list[Bool[np.ndarray, "_ _"]], theirs: list[Bool[np.ndarray, "_ _"]], config: RewardConfig
) -> Row:
    """Compare the masks of the same photos one by one."""
    ious = [iou(*pair) for pair in zip(ours, theirs, strict=True)]
    least = MIN_IOU[config.dtype]
    what = f"masks against SAM2ImagePredictor, {config.dtype} on {config.device}"
    measured = ", ".join(f"{value:.4f}" for value in ious)
    # Two empty masks agree with any model, so one mask must not be empty.
    good = min(ious) >= least and any(mask.any() for mask in theirs)
    return Row(what, f"IoU at least {least:g} per photo", measured, verdict(good))


def _reference(config: RewardConfig, requests: list[ScoreRequest]) -> list[Bool[np.ndarray, "H W"]]:
    """Return the same masks from the sam2 package alone, run by the sidecar's interpreter."""
    inputs = {}
    for number, each in enumerate(requests):
        inputs[f"{number}.image"] = each.image
        for place, prompt in enumerate(each.prompts):
            inputs |= {f"{number}.{place}.{k}": v for k, v in dataclasses.asdict(prompt).items()}
    with tempfile.TemporaryDirectory() as folder:
        arrays, out = Path(folder) / "inputs.npz", Path(folder) / "masks.npz"
        np.savez(arrays, **inputs)
        command = [interpreter_of_torch(config.python), REFERENCE, arrays, out]
        command = [*map(str, command), json.dumps(model_settings(config))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                "masks",
                expected="masks of SAM2ImagePredictor",
                got="; ".join(done.stderr.strip().splitlines()[-2:]),
                remedy=f"fix the error that {command[0]} reports",
            )
        with np.load(out) as masks:
            return [masks[str(number)] for number in range(len(requests))]

"""The parts of first_day.py: each compares one thing and returns (expected, measured, passed)."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from scipy.special import log_softmax

from segr1_jax.apply.opened import open_policy
from segr1_jax.apply.verify import ANSWER, answer_logits, reference_logits_of
from segr1_jax.hardware import device_named
from segr1_jax.hf.load import read_arch
from segr1_jax.plan.plan import make_plan
from segr1_jax.prompt.pixels import stretch
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.gpus import placed_here
from segr1_jax.reward.supervisor import model_settings
from segr1_jax.train import loop
from segr1_jax.train.config import RunConfig
from segr1_jax.train.start import resolve_start
from segr1_jax.types import Example, SamPrompt, ScoreRequest

# bfloat16 is compared with bfloat16: ours may be off the float32 logprobs twice as far as theirs.
ROUNDING, FLOOR = 2.0, 1e-3
MASK_IOU = 0.97


def policy(config: RunConfig, examples: list[Example], out: Path) -> tuple[str, str, bool]:
    """Logprobs of one answer about each photo, beside those of transformers."""
    opened = open_policy(config, Path(config.policy.path))
    builder, side = opened.engine.builder, config.prompt.frame
    prompts = [builder.build(example) for example in examples]
    answer_T = builder.encode_answer(ANSWER)
    rows = opened.engine.placement.row_shards
    ours, theirs = [], []
    for example, prompt in zip(examples, prompts, strict=True):
        found_TV = answer_logits(opened, [prompt] * rows, [answer_T] * rows)[0]
        exact_TV, rounded_TV = (
            reference_logits_of(
                Path(opened.start.base),
                builder,
                prompt,
                stretch(example.image, side, side),
                answer_T,
                config.reward.python,
                dtype,
            )
            for dtype in ("float32", config.policy.compute_dtype)
        )
        exact_T = _logprobs(exact_TV, answer_T)
        ours.append(np.abs(_logprobs(found_TV, answer_T) - exact_T).mean())
        theirs.append(np.abs(_logprobs(rounded_TV, answer_T) - exact_T).mean())
    bound = ROUNDING * np.mean(theirs) + FLOOR
    return (
        f"mean difference of a token's logprob from transformers in float32 at most {bound:.4f} "
        f"({ROUNDING:g} x that of transformers in {config.policy.compute_dtype}, {np.mean(theirs):.4f})",
        f"{np.mean(ours):.4f} over {len(examples)} photos (largest {np.max(ours):.4f})",
        bool(np.mean(ours) <= bound),
    )


def masks(config: RunConfig, examples: list[Example], out: Path) -> tuple[str, str, bool]:
    """Masks of a box with a point about each photo, beside those of SAM2ImagePredictor."""
    requests = [_request(example) for example in examples]
    with RewardClient(config.reward) as client:
        found = [score.mask for score in client.collect(client.submit(requests))]
    with tempfile.TemporaryDirectory() as folder:
        settings, prompts, answers = (Path(folder) / name for name in ("s.json", "p.npz", "o.npz"))
        settings.write_text(json.dumps(model_settings(placed_here(config.reward))))
        arrays = {}
        for number, request in enumerate(requests):
            (prompt,) = request.prompts
            arrays |= {
                f"image_{number}": request.image,
                f"box_{number}": prompt.box,
                f"points_{number}": prompt.points,
                f"labels_{number}": prompt.labels,
            }
        np.savez(prompts, **arrays)
        script = Path(__file__).with_name("reference_masks.py")
        python = config.reward.python or sys.executable
        subprocess.run([python, script, settings, prompts, answers], check=True)
        with np.load(answers) as theirs:
            overlaps = [_iou(mask, theirs[str(number)]) for number, mask in enumerate(found)]
            covered = min(mask.mean() for mask in theirs.values())
    return (
        f"IoU of at least {MASK_IOU} with SAM2ImagePredictor on each photo, no mask empty",
        f"{', '.join(f'{overlap:.4f}' for overlap in overlaps)}; the least covers {covered:.1%}",
        bool(min(overlaps) >= MASK_IOU and covered > 0),
    )


def first_step(config: RunConfig, examples: list[Example], out: Path) -> tuple[str, str, bool]:
    """One training step from the weights, saved; memory beside the plan's."""
    digests, peak = _train(config, out, steps=1)
    (out / "saved.json").write_text(json.dumps(digests["saved"]))
    planned, measured = _memory(config, peak)
    return f"a step, saved; {planned}", measured, True


def second_step(config: RunConfig, examples: list[Example], out: Path) -> tuple[str, str, bool]:
    """The checkpoint is restored bit for bit, and training goes on from it."""
    saved = json.loads((out / "saved.json").read_text())
    digests, _ = _train(config, out, steps=2)
    return (
        f"restored state {saved}, as saved; a second step",
        f"restored {digests['opened']}, after the step {digests['saved']}",
        digests["opened"] == saved != digests["saved"],
    )


PARTS: dict[str, Callable] = {
    "policy": policy,
    "masks": masks,
    "first step": first_step,
    "second step": second_step,
}


def _train(config: RunConfig, out: Path, steps: int) -> tuple[dict[str, str], int | None]:
    """Digests of the state as opened and as last saved, and the devices' peak memory in bytes."""
    digests = {}

    class Digesting(loop.Run):
        def __init__(self, config: RunConfig):
            super().__init__(config)
            digests["opened"] = _digest(self.state)

        def save(self, step: int) -> None:
            super().save(step)
            digests["saved"] = _digest(self.state)

    loop.Run = Digesting
    config = dataclasses.replace(config, run_dir=str(out / "run"), steps=steps)
    (loop.run_sft if config.stage == "sft" else loop.run_grpo)(config)
    stats = jax.local_devices()[0].memory_stats() or {}
    return digests, stats.get("peak_bytes_in_use")


def _digest(tree) -> str:
    """16 hex digits over every bit of a tree of arrays."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            digest.update(np.ascontiguousarray(shard.data))
    return digest.hexdigest()


def _memory(config: RunConfig, peak: int | None) -> tuple[str, str]:
    """(what the plan says, what was measured), in words."""
    arch = read_arch(Path(resolve_start(config.policy.path).base))
    device = device_named(config.hardware.kind)
    plan = make_plan(config, arch, device, jax.device_count(), remedy=False)
    planned = f"{plan.peak[plan.highest] / 1e9:.2f} to {plan.high / 1e9:.2f} GB planned"
    return (
        planned,
        f"{peak / 1e9:.2f} GB at the peak" if peak else "no memory figure on this device",
    )


def _logprobs(logits_TV: np.ndarray, tokens_T: np.ndarray) -> np.ndarray:
    return log_softmax(logits_TV.astype(np.float64), axis=1)[np.arange(len(tokens_T)), tokens_T]


def _request(example: Example) -> ScoreRequest:
    """The middle half of the image as a box, its middle as a point."""
    height, width = example.image.shape[:2]
    box = np.array([width / 4, height / 4, 3 * width / 4, 3 * height / 4], np.float32)
    middle = np.array([[width / 2, height / 2]], np.float32)
    blank = np.zeros((height, width), bool)
    return ScoreRequest(example.image, blank, (SamPrompt(box, middle, np.ones(1, np.int32)),), True)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0

"""Compare our bfloat16 logprobs of an answer about each photo with those of transformers.

Both round to bfloat16 in different places, so neither is a reference. The part compares their
distances from transformers in float32. Our logprobs are those of training, with its attention
kernel.

Shape legend: B photos; P prompt tokens; T answer tokens; V vocabulary.
"""

import dataclasses
from pathlib import Path

import numpy as np
from first_day_parts.request import Request, Row, answer_in, verdict
from jaxtyping import Float, Int
from scipy.special import log_softmax

from segr1_jax.answer.grammar import render
from segr1_jax.config.loading import override
from segr1_jax.errors import UserError
from segr1_jax.export.check import obstacle, transformers_logits
from segr1_jax.infer.load_policy import Opened, open_policy
from segr1_jax.objective.batch import answer_batch
from segr1_jax.policy.attention import Attention
from segr1_jax.prompt.patches import patchify, stretch
from segr1_jax.training.make_engine import attention_of
from segr1_jax.types import Example, Frame, Prompt

# The largest ratio of the two distances, each of a few hundred tokens.
MAX_RATIO = 2.0


def measure(request: Request) -> list[Row]:
    """Return one row with the two distances."""
    config = override(request.config, ["policy.compute_dtype=bfloat16"])
    request.prepare_jax()
    opened = open_policy(config, Path(config.policy.path))
    _require_reference(opened, config.reward.python)
    examples, builder = request.examples(), opened.engine.builder
    prompts = [builder.build(example) for example in examples]
    frame = Frame(config.prompt.frame, config.prompt.frame)
    answer_T = builder.encode_answer(render(answer_in(frame), task=config.prompt.task))
    ours_BT = _our_logprobs(opened, prompts, answer_T)
    inputs = _inputs(opened, examples, prompts, answer_T)
    theirs_BT, exact_BT = (
        _their_logprobs(opened, inputs, answer_T, dtype) for dtype in ("bfloat16", "float32")
    )
    return [compare(ours_BT, theirs_BT, exact_BT)]


def compare(
    ours_BT: Float[np.ndarray, "B T"],
    theirs_BT: Float[np.ndarray, "B T"],
    exact_BT: Float[np.ndarray, "B T"],
) -> Row:
    """Compare the distances of both bfloat16 logprobs from transformers in float32."""
    ours, theirs = (_rms(values_BT - exact_BT) for values_BT in (ours_BT, theirs_BT))
    part = f"parity: logprobs of {ours_BT.size} tokens about {len(ours_BT)} photos"
    expected = (
        f"at most {MAX_RATIO:g} times transformers' bfloat16 distance to float32, {theirs:.2e}"
    )
    apart = np.abs(ours_BT - theirs_BT).max()
    measured = f"{ours:.2e} ({ours / theirs:.2f} times); largest from its bfloat16 {apart:.2e}"
    return Row(part, expected, measured, verdict(ours <= MAX_RATIO * theirs))


def _require_reference(opened: Opened, python: str) -> None:
    if opened.start.checkpoints is not None:
        raise UserError(
            "policy.path",
            expected="a Hugging Face directory, which transformers can read",
            got=f"the run {opened.start.checkpoints}",
            remedy="export it first (`segr1 export`)",
        )
    if lacking := obstacle(opened.engine.policy, python):
        remedy = "install transformers beside torch (reward.python), or use a larger host"
        raise UserError("parity", expected="to run transformers", got=lacking, remedy=remedy)


def _our_logprobs(
    opened: Opened, prompts: list[Prompt], answer_T: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "B T"]:
    attention = Attention(attention_of(opened.engine.config, opened.engine.placement))
    policy = dataclasses.replace(opened.engine.policy, attention=attention)
    engine = dataclasses.replace(opened.engine, policy=policy)
    # Every part of the mesh gets the same number of rows.
    rows = prompts * engine.placement.row_shards
    on_mesh = engine.put_prompts(rows)
    batch = engine.placement.put_rows(answer_batch([answer_T] * len(rows), len(answer_T)))
    logprobs = engine.reference_logprobs(opened.params, on_mesh, batch.tokens, batch.mask, None)
    return np.asarray(logprobs, np.float64)[: len(prompts), 0]


def _inputs(
    opened: Opened,
    examples: list[Example],
    prompts: list[Prompt],
    answer_T: Int[np.ndarray, " T"],
) -> dict[str, np.ndarray]:
    """Return the arguments of transformers' forward, which keeps only the logits of the answer."""
    builder, side = opened.engine.builder, opened.engine.config.prompt.frame
    ids = np.stack([np.concatenate([prompt.token_ids, answer_T]) for prompt in prompts])
    start = len(prompts[0].token_ids) - 1
    pixels = [patchify(stretch(each.image, side, side), builder.vision) for each in examples]
    grid = [1, side // builder.vision.patch, side // builder.vision.patch]
    return {
        "input_ids": ids.astype(np.int64),
        "mm_token_type_ids": (ids == builder.tokenizer.image_pad_id).astype(np.int64),
        "pixel_values": np.concatenate(pixels),
        "image_grid_thw": np.array([grid] * len(examples)),
        "logits_to_keep": np.arange(start, start + len(answer_T)),
    }


def _their_logprobs(
    opened: Opened, inputs: dict[str, np.ndarray], answer_T: Int[np.ndarray, " T"], dtype: str
) -> Float[np.ndarray, "B T"]:
    """Return logprobs of the trained distribution: some tokens banned, with a temperature."""
    config, arch = opened.engine.config, opened.engine.policy.arch
    directory = Path(opened.start.base)
    logits_BTV = transformers_logits(directory, inputs, config.reward.python, dtype)
    logits_BTV[..., list(arch.never_sampled)] = -np.inf
    logprobs_BTV = log_softmax(logits_BTV.astype(np.float64) / config.rollout.temperature, axis=-1)
    return logprobs_BTV[:, np.arange(len(answer_T)), answer_T]


def _rms(values: Float[np.ndarray, "..."]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))

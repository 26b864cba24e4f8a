"""Outputs of every layer, in our policy and in the oracle, from unchanged forward passes.

Shape legend: L layers; B prompts; N padded patches; n real patches; P prefix tokens; G completions;
T completion tokens; S P + T; D hidden.
"""

from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers_oracle import oracle_inputs

from segr1_jax.policy import scanned_layers as stack
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.types import Prompt


class Recorded(NamedTuple):
    """Logits and the output of every layer of our policy."""

    logits_BGTV: np.ndarray
    tower_LBND: np.ndarray
    prefix_LBPD: np.ndarray
    suffix_LBGTD: np.ndarray


class OracleRecorded(NamedTuple):
    """Return the same of the oracle for one sequence.

    The tower in window order, as the oracle computes it.
    """

    logits_TV: np.ndarray
    tower_LnD: np.ndarray
    text_LSD: np.ndarray


def recorded_states(
    policy: Policy, params: Params, batch: PromptBatch, tokens_BGT: np.ndarray
) -> Recorded:
    """Run `predict_states` and the projection, with the carry of every scanned layer kept."""

    @jax.jit
    def run(p):
        kept = []

        def scan_and_keep(layers, step, carry, xs=None, *, remat="none"):
            def keeping(layer, carry, x):
                carry, y = step(layer, carry, x)
                return carry, (y, carry)

            carry, (ys, states) = stack.scan_layers(layers, keeping, carry, xs, remat=remat)
            kept.append(states)
            return carry, ys

        with (
            mock.patch("segr1_jax.policy.qwen2_5_vl.model.scan_layers", scan_and_keep),
            mock.patch("segr1_jax.policy.qwen2_5_vl.vision.scan_layers", scan_and_keep),
        ):
            model = policy.bind(p)
            states = model.predict_states(
                batch, jnp.asarray(tokens_BGT), jnp.ones(tokens_BGT.shape, bool)
            )
        tower, joint_LBND = kept
        P = batch.mask.shape[1]
        suffix_LBGTD = joint_LBND[:, :, P:].reshape(*joint_LBND.shape[:2], *states.shape[1:])
        return logits(model, states), tower, joint_LBND[:, :, :P], suffix_LBGTD

    return Recorded(*map(np.asarray, run(params)))


def logits(model, states):
    """Float32 logits of states, before any id is banned."""
    return jnp.einsum(
        "...d,dv->...v",
        states,
        model.head_kernel().astype(states.dtype),
        preferred_element_type=jnp.float32,
    )


def oracle_states(model, prompt: Prompt, completion: np.ndarray) -> OracleRecorded:
    """The oracle's forward pass with a hook on every layer."""
    towers, texts = [], []
    hooks = [
        block.register_forward_hook(lambda *args: towers.append(args[2]))
        for block in model.model.visual.blocks
    ]
    hooks += [
        layer.register_forward_hook(lambda *args: texts.append(args[2][0]))
        for layer in model.model.language_model.layers
    ]
    try:
        with torch.no_grad():
            out = model(**oracle_inputs(model, prompt, completion)).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    depth, hidden = len(model.model.visual.blocks), model.config.vision_config.hidden_size
    tower = torch.stack(towers).numpy() if towers else np.zeros((depth, 0, hidden), np.float32)
    return OracleRecorded(
        out[len(prompt.token_ids) - 1 : -1].numpy(), tower, torch.stack(texts).numpy()
    )

"""FLOPs that the model's formulas need for the tokens of a call: the numerator of MFU.

Multiply-adds of matrix products count 2, anything else nothing. Tokens are real ones: padding,
masked attention scores and recomputed activations (remat) are work that a program does, not work
that the model needs (Chowdhery et al., 2022, PaLM, appendix B).

Shape legend: B prompts; P prefix tokens; G completions per prompt; T completion tokens; W windows;
S patches per window.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch, TextArch, VisionArch
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.qwen2_5_vl.vision import Images
from segr1_jax.rollout.sampler import Decoding, Prefilled


class Work(NamedTuple):
    """Work of a call: tokens, and pairs of tokens that attend to each other, over the batch."""

    text_tokens: int = 0
    text_pairs: int = 0
    head_tokens: int = 0
    patches: int = 0
    window_pairs: int = 0
    image_pairs: int = 0


def text_work(prefix_mask_BP: Bool[np.ndarray, "B P"], mask_BGT: Bool[np.ndarray, "B G T"]) -> Work:
    """Return the work of one prefix per prompt and of completions that see it and themselves.

    The head predicts every completion token.

    Example:
        >>> text_work(np.ones((1, 3), bool), np.ones((1, 1, 2), bool))[:3]
        (5, 15, 2)
    """
    prefix_B1 = prefix_mask_BP.sum(axis=1)[:, None]
    own_BG = mask_BGT.sum(axis=2)
    pairs = (prefix_B1 * (prefix_B1 + 1) // 2).sum() + (
        own_BG * prefix_B1 + own_BG * (own_BG + 1) // 2
    ).sum()
    return Work(
        text_tokens=int(prefix_B1.sum() + own_BG.sum()),
        text_pairs=int(pairs),
        head_tokens=int(own_BG.sum()),
    )


def tower_work(
    mask_BWS: Bool[np.ndarray, "B W S"], window_image_BW: Int[np.ndarray, "B W"]
) -> Work:
    """Return the work of the vision tower.

    Patches attend inside their window, and in layers of full attention to all of their image.
    """
    in_window_BW = mask_BWS.sum(axis=2)
    same_image_BWW = window_image_BW[:, :, None] == window_image_BW[:, None, :]
    image_pairs = np.einsum(
        "bv,bvw,bw->", in_window_BW, same_image_BWW.astype(np.int64), in_window_BW
    )
    return Work(
        patches=int(in_window_BW.sum()),
        window_pairs=int((in_window_BW**2).sum()),
        image_pairs=int(image_pairs),
    )


def forward_flops(arch: PolicyArch, work: Work) -> float:
    """Return FLOPs of one forward pass over `work`."""
    return tower_flops(arch.vision, work) + language_flops(arch.text, work)


def language_flops(arch: TextArch, work: Work) -> float:
    """Return FLOPs of the layers and the vocabulary projection; embedding lookups count 0."""
    attended = arch.heads * arch.head_dim
    projections = 2 * arch.hidden * (attended + arch.kv_heads * arch.head_dim)  # q and o, k and v
    per_layer = (
        2.0 * work.text_tokens * (projections + 3 * arch.hidden * arch.intermediate)
        + 4.0 * work.text_pairs * attended
    )
    return arch.layers * per_layer + 2.0 * work.head_tokens * arch.hidden * arch.vocab


def tower_flops(arch: VisionArch, work: Work) -> float:
    """Return FLOPs of patch embedding, layers and merger of the vision tower."""
    per_patch = arch.depth * (4 * arch.hidden**2 + 3 * arch.hidden * arch.intermediate)
    merged = arch.hidden * arch.merge**2
    merger = (merged**2 + merged * arch.out_hidden) / arch.merge**2
    full = len(arch.full_layers)
    pairs = full * work.image_pairs + (arch.depth - full) * work.window_pairs
    return (
        2.0 * work.patches * (arch.patch_values * arch.hidden + per_patch + merger)
        + 4.0 * pairs * arch.hidden
    )


def work_of(name: str, arguments: tuple, result: Any) -> Work | None:
    """Return the work of one call of an Engine function; None for those without matrix products."""
    # The order of the arguments is that of Engine's functions.
    match name:
        case "features":
            return _tower_work(arguments[1])
        case "sample_prefill" | "answer_prefill":
            return _batch_work(arguments[1], np.zeros((len(arguments[1].mask), 0, 0), bool))
        case "sample_block" | "answer_block":
            return _block_work(arguments[1], arguments[2], result[0])
        case "reference_logprobs":
            return _batch_work(arguments[1], np.asarray(arguments[3]))
        case "gradient":
            return _batch_work(arguments[3].prompts, np.asarray(arguments[3].completions.mask))
        case _:
            return None


def _block_work(prefilled: Prefilled, before: Decoding, after: Decoding) -> Work:
    """Return the work of the tokens that a block of decoding adds."""
    prefix_BP = np.asarray(prefilled.prefix.mask)
    done = (text_work(prefix_BP, np.asarray(each.samples.mask)) for each in (after, before))
    return Work(*(more - less for more, less in zip(*done, strict=True)))


def _batch_work(prompts: PromptBatch, mask_BGT: Bool[np.ndarray, "B G T"]) -> Work:
    tower = _tower_work(prompts.images) if isinstance(prompts.images, Images) else Work()
    text = text_work(np.asarray(prompts.mask), mask_BGT)
    return Work(*map(sum, zip(text, tower, strict=True)))


def _tower_work(images: Images) -> Work:
    return tower_work(np.asarray(images.mask), np.asarray(images.window_image))


def call_flops(name: str, arch: PolicyArch, work: Work, *, adapters: bool) -> float:
    """Return the model FLOPs of one call of the function `name` of Engine.

    A gradient costs the forward pass and twice as much for the backward pass (by inputs and by
    weights), or as much again where only adapters are trained. A frozen tower is not in the
    gradient's work: it runs as `features`.
    """
    passes = {"gradient": 2 if adapters else 3}.get(name, 1)
    return passes * forward_flops(arch, work)

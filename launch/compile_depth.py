"""Does compile time grow with depth? One gradient step of the policy, compiled 4 and 36 layers deep (tower and language model).

    .venv/bin/python launch/compile_depth.py [--shallow 4] [--deep 36] [--rounds 5]

Widths and batch are those of the 3B model on 756 x 756 images; weights and inputs are shapes without values, so no memory is needed. The
two depths take turns, every compilation starts from empty caches, and a first one of each is not counted. Printed: median seconds of
tracing and lowering, of compiling, and of both. Exit status 1 where both together take more than 1.3 times as long when deep.
"""

import argparse
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch, TextArch, VisionArch
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.qwen2_5_vl.vision import Images

WANTED_RATIO = 1.3
PROMPTS, PREFIX, GROUP, COMPLETION = 1, 1024, 4, 400
WINDOWS, SLOTS = 49, 64  # a 756 x 756 image in windows of 112 pixels


def policy_of(depth: int) -> Policy:
    """The 3B model with both towers `depth` layers deep, every fourth layer of the vision tower attending to the whole image."""
    vision = VisionArch(
        depth=depth,
        hidden=1280,
        intermediate=3420,
        heads=16,
        out_hidden=2048,
        in_channels=3,
        patch=14,
        temporal_patch=2,
        merge=2,
        window=112,
        full_layers=tuple(range(3, depth, 4)),
    )
    text = TextArch(
        layers=depth,
        hidden=2048,
        intermediate=11008,
        heads=16,
        kv_heads=2,
        head_dim=128,
        vocab=151936,
        rope_theta=1e6,
        mrope_section=(16, 24, 24),
        norm_eps=1e-6,
        tied_head=True,
    )
    return Policy(
        PolicyArch(vision, text, 151655, 151656, 151652, 151653, 151654), jnp.bfloat16, remat=True
    )


def shapes() -> tuple[PromptBatch, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Prompts, completion tokens and their mask, without values."""

    def of(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    images = Images(
        patches=of(jnp.float32, PROMPTS, WINDOWS, SLOTS, 1176),
        positions=of(jnp.int32, PROMPTS, WINDOWS, SLOTS, 2),
        mask=of(jnp.bool_, PROMPTS, WINDOWS, SLOTS),
        window_image=of(jnp.int32, PROMPTS, WINDOWS),
    )
    prompts = PromptBatch(
        tokens=of(jnp.int32, PROMPTS, PREFIX),
        positions=of(jnp.int32, PROMPTS, 3, PREFIX),
        next_position=of(jnp.int32, PROMPTS),
        image_index=of(jnp.int32, PROMPTS, PREFIX),
        mask=of(jnp.bool_, PROMPTS, PREFIX),
        images=images,
    )
    return (
        prompts,
        of(jnp.int32, PROMPTS, GROUP, COMPLETION),
        of(jnp.bool_, PROMPTS, GROUP, COMPLETION),
    )


def seconds(depth: int) -> tuple[float, float]:
    """Seconds to trace and lower, and to compile, the gradient of a token loss."""
    policy = policy_of(depth)
    weights = {
        name: jax.ShapeDtypeStruct(spec.shape, jnp.float32) for name, spec in policy.specs.items()
    }

    def loss(params, prompts, tokens, mask):
        return -score_tokens(policy.bind(params), prompts, tokens, mask).logprobs.mean()

    jax.clear_caches()
    began = time.perf_counter()
    lowered = jax.jit(jax.grad(loss)).lower(weights, *shapes())
    between = time.perf_counter()
    lowered.compile()
    return between - began, time.perf_counter() - between


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shallow", type=int, default=4)
    parser.add_argument("--deep", type=int, default=36)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    jax.config.update(
        "jax_enable_compilation_cache", False
    )  # nothing from an earlier run, nothing left on disk
    times = {depth: [] for depth in (options.shallow, options.deep)}
    for number in range(options.rounds + 1):
        for depth, kept in times.items():
            measured = seconds(depth)
            if number:  # the first of each pays for what a process does once
                kept.append((*measured, sum(measured)))
    medians = {
        depth: [statistics.median(column) for column in zip(*kept, strict=True)]
        for depth, kept in times.items()
    }
    for depth, (lower, compile_, both) in medians.items():
        print(
            f"{depth} layers: traced and lowered in {lower:.2f} s, compiled in {compile_:.2f} s, together {both:.2f} s"
        )
    ratio = medians[options.deep][2] / medians[options.shallow][2]
    print(
        f"ratio {ratio:.3f} (at most {WANTED_RATIO}), {options.rounds} rounds on {jax.devices()[0].device_kind}"
    )
    return int(ratio > WANTED_RATIO)


if __name__ == "__main__":
    sys.exit(main())

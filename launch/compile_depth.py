"""Measure how compile time grows with depth, on one gradient step of the policy.

    .venv/bin/python launch/compile_depth.py [--shallow 4] [--deep 36] [--rounds 5]

The tower and the language model have 4 or 36 layers. Widths and batch are those of the 3B model on
756 x 756 images. Weights and inputs are shapes without values, so they take no memory. The two
depths alternate, every compilation starts from empty caches, and the first of each depth is not
counted. The script prints the median seconds of tracing and lowering, of compiling, and of both.
The exit status is 1 if the deep policy takes more than 1.3 times as long in total.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from segr1_jax.hf.load_weights import read_arch_file
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.qwen2_5_vl.vision import Images

ARCH_3B = Path(__file__).parents[1] / "configs" / "arch" / "qwen2.5-vl-3b.json"
WANTED_RATIO = 1.3
PROMPTS, PREFIX, GROUP, COMPLETION = 1, 1024, 4, 400
# A 756 x 756 image in windows of 112 pixels.
WINDOWS, SLOTS = 49, 64


def policy_of(depth: int) -> Policy:
    """Return the 3B model with `depth` layers in the vision tower and the language model.

    Every fourth layer of the vision tower attends to the whole image.
    """
    arch = read_arch_file(ARCH_3B)
    full_layers = tuple(range(3, depth, 4))
    arch = dataclasses.replace(
        arch,
        vision=dataclasses.replace(arch.vision, depth=depth, full_layers=full_layers),
        text=dataclasses.replace(arch.text, layers=depth),
    )
    return Policy(arch, jnp.bfloat16, remat="full")


def shapes() -> tuple[PromptBatch, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the shapes of prompts, completion tokens and their mask."""

    def of(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    images = Images(
        patches=of(jnp.uint8, PROMPTS, WINDOWS, SLOTS, 588),
        levels=of(jnp.float32, PROMPTS, 3, 256),
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
    """Return the seconds to trace and lower, and to compile, the gradient of a token loss."""
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
    # Use no results of an earlier run, and write none to the disk.
    jax.config.update("jax_enable_compilation_cache", False)
    times = {depth: [] for depth in (options.shallow, options.deep)}
    for number in range(options.rounds + 1):
        for depth, kept in times.items():
            measured = seconds(depth)
            # The first of each includes work that a process does once.
            if number:
                kept.append((*measured, sum(measured)))
    medians = {
        depth: [statistics.median(column) for column in zip(*kept, strict=True)]
        for depth, kept in times.items()
    }
    for depth, (lower, compile_, both) in medians.items():
        print(
            f"{depth} layers: traced and lowered in {lower:.2f} s, compiled in {compile_:.2f} s, "
            f"together {both:.2f} s"
        )
    ratio = medians[options.deep][2] / medians[options.shallow][2]
    print(
        f"ratio {ratio:.3f} (at most {WANTED_RATIO}), {options.rounds} rounds "
        f"on {jax.devices()[0].device_kind}"
    )
    return int(ratio > WANTED_RATIO)


if __name__ == "__main__":
    sys.exit(main())

"""Measure the savings of a shared prefix in the update, and of chunks in the vocabulary projection.

    .venv/bin/python launch/bench/shared_prefix.py \\
        [--rounds 2] [--side 756] [--answers 8] [--tokens 128]

The first part is one gradient step of a random policy (vocabulary of 8k, 90 M weights in tower and
layers, 756 x 756 image of 729 image tokens) on a group of 8 answers of 128 tokens. It compares the
shared prefix, `[1, 8, 128]`, with the same function on `[8, 1, 128]`, where prompt and image are
repeated 8 times. The two alternate. The script prints medians, FLOPs and the distance of their
gradients.

The second part is the loss alone, from hidden states of 8 x 128 tokens to their gradient at a
vocabulary of 152k. It compares the compiled temporary memory of chunks with that of full logits;
nothing runs.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from segr1_jax.plan.flops import matmul_flops
from segr1_jax.policy.logprobs import score_states, score_tokens
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch, TextArch, VisionArch
from segr1_jax.policy.qwen2_5_vl.inputs import stack_prompts
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.prompt.patches import normalized_levels
from segr1_jax.prompt.positions import mrope_positions
from segr1_jax.prompt.processor_settings import VisionSettings
from segr1_jax.prompt.windows import join_windows
from segr1_jax.types import Frame, Prompt

# Token id of an image slot; the ids after it are those of the other image tokens.
IMAGE = 8000
# Text tokens of the prompt.
TEXT = 60
VISION = VisionSettings(
    patch=14, temporal_patch=2, merge=2, window=112, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)
# Sizes of the loss alone, those of the 3B model.
HIDDEN, VOCABULARY = 2048, 151936


def make_policy() -> Policy:
    vision = VisionArch(
        depth=12,
        hidden=512,
        intermediate=1368,
        heads=4,
        out_hidden=512,
        in_channels=3,
        patch=VISION.patch,
        temporal_patch=VISION.temporal_patch,
        merge=VISION.merge,
        window=VISION.window,
        full_layers=(3, 7, 11),
    )
    text = TextArch(
        layers=16,
        hidden=512,
        intermediate=1408,
        heads=8,
        kv_heads=2,
        head_dim=64,
        vocab=8192,
        rope_theta=1e6,
        mrope_section=(8, 12, 12),
        norm_eps=1e-6,
        tied_head=True,
    )
    arch = PolicyArch(
        vision=vision,
        text=text,
        image_token=IMAGE,
        video_token=IMAGE + 1,
        vision_start_token=IMAGE + 2,
        vision_end_token=IMAGE + 3,
        vision_pad_token=IMAGE + 4,
    )
    return Policy(arch, remat="full")


def make_prompt(rng: np.random.Generator, side: int) -> PromptBatch:
    """Make a prompt of a noise image between random text tokens."""
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    slots = [IMAGE] * VISION.image_tokens(side, side)
    tokens = np.array(
        [*rng.integers(0, IMAGE, TEXT // 2), *slots, *rng.integers(0, IMAGE, TEXT // 2)], np.int32
    )
    grid = side // VISION.unit
    positions, next_position = mrope_positions(tokens, [(grid, grid)], IMAGE)
    windows = join_windows([image], VISION)
    image_index = np.full(len(tokens), -1, np.int32)
    image_index[tokens == IMAGE] = windows.unit_row
    prompt = Prompt(
        example_id=0,
        token_ids=tokens,
        positions=positions,
        next_position=next_position,
        image_index=image_index,
        patches=windows.patches,
        levels=normalized_levels(VISION),
        patch_positions=windows.patch_positions,
        patch_mask=windows.patch_mask,
        window_image=windows.window_image,
        model_frame=Frame(side, side),
        native_frame=Frame(side, side),
    )
    return jax.tree.map(jnp.asarray, stack_prompts([prompt], len(tokens)))


def gradient_of(policy: Policy):
    def loss(params: Params, prompts: PromptBatch, tokens):
        return score_tokens(
            policy.bind(params), prompts, tokens, jnp.ones(tokens.shape, bool), chunk=16
        ).logprobs.mean()

    return jax.jit(jax.grad(loss))


def compare_updates(options: argparse.Namespace) -> None:
    """Compare time, FLOPs and gradients of the shared and the repeated prefix."""
    group, side = options.answers, options.side
    rng, policy = np.random.default_rng(0), make_policy()
    params = policy.init(0)
    prompts = make_prompt(rng, side)
    gradient = gradient_of(policy)
    tokens = jnp.asarray(rng.integers(0, IMAGE, (1, group, options.tokens)), jnp.int32)
    repeated = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), prompts)
    calls = {
        "shared": (params, prompts, tokens),
        "repeated": (params, repeated, tokens.reshape(group, 1, options.tokens)),
    }
    seconds, gradients = {name: [] for name in calls}, {}
    # The first round compiles and is not counted.
    for _ in range(options.rounds + 1):
        for name, arguments in calls.items():
            began = time.perf_counter()
            gradients[name] = jax.block_until_ready(gradient(*arguments))
            seconds[name].append(time.perf_counter() - began)
    full = policy.arch.vision.full_share
    flops = {
        name: matmul_flops(gradient.trace(*call).jaxpr.jaxpr, trips=1, true_share=full)
        for name, call in calls.items()
    }
    took = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    body = sum(x.size for name, x in params.items() if name != "embed")
    image_tokens = VISION.image_tokens(side, side)
    print(f"{body / 1e6:.0f} M weights in tower and layers, {image_tokens} image tokens")
    for name in calls:
        print(f"{name:<9} {took[name]:7.2f} s  {flops[name] / 1e12:6.2f} TFLOP")
    print(
        f"shared: {took['repeated'] / took['shared']:.2f} times faster, "
        f"{flops['repeated'] / flops['shared']:.2f} times fewer FLOPs"
    )
    distances = map(_distance, gradients["shared"].values(), gradients["repeated"].values())
    print(f"largest relative distance of a gradient: {max(distances):.1e}")


def _distance(a: jax.Array, b: jax.Array) -> float:
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def compare_losses(group: int, tokens: int) -> None:
    """Compare the temporary memory of the loss in chunks of 16 positions and with full logits."""
    shape = (1, group, tokens)
    for name, argnums in (("states", 0), ("states and projection", (0, 1))):
        chunks, full = (_loss_memory(shape, chunk, argnums) / 1e6 for chunk in (16, tokens))
        print(
            f"loss, gradient of {name}: {chunks:.0f} MB in chunks, {full:.0f} MB with full logits: "
            f"{full / chunks:.1f} times less"
        )


def _loss_memory(shape: tuple[int, ...], chunk: int, argnums: int | tuple[int, ...]) -> int:
    def loss(states, kernel, tokens):
        mask = jnp.ones(tokens.shape, bool)
        return score_states(
            states, kernel, tokens, mask, banned=(IMAGE,), temperature=1.0, chunk=chunk
        ).logprobs.mean()

    arguments = (
        jax.ShapeDtypeStruct((*shape, HIDDEN), jnp.float32),
        jax.ShapeDtypeStruct((HIDDEN, VOCABULARY), jnp.float32),
        jax.ShapeDtypeStruct(shape, jnp.int32),
    )
    return (
        jax.jit(jax.grad(loss, argnums))
        .lower(*arguments)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", type=int, default=756, help="of the image, in pixels")
    parser.add_argument("--answers", type=int, default=8, help="of the group")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    options = parser.parse_args()
    compare_losses(options.answers, options.tokens)
    compare_updates(options)


if __name__ == "__main__":
    main()

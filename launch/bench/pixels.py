"""Compare the two ways to bring a batch's images to the device: as pixels, or normalized.

    python launch/bench/pixels.py [--images 24] [--side 756] [--rounds 5]

Training sends pixels, which the device normalizes (policy/qwen2_5_vl/vision.py). The baseline
normalizes on the host, in float32, each image in both frames of its patches. Both cut the same
images into windows, stack them and put them on the first device, in turn. Seconds are medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from shared_prefix import VISION

from segr1_jax.policy.qwen2_5_vl.vision import Images, tower_inputs
from segr1_jax.prompt.patches import normalized_levels, patchify
from segr1_jax.prompt.windows import join_windows, window_layout


def as_pixels(images: list[np.ndarray]) -> Images:
    """Return the fields of Images, with patches as pixels."""
    windows = [join_windows([image], VISION) for image in images]
    return Images(
        patches=np.stack([each.patches for each in windows]),
        levels=np.stack([normalized_levels(VISION)] * len(images)),
        positions=np.stack([each.patch_positions for each in windows]),
        mask=np.stack([each.patch_mask for each in windows]),
        window_image=np.stack([each.window_image for each in windows]),
    )


def normalized(images: list[np.ndarray]) -> np.ndarray:
    """Return the inputs of the tower, float32[B, W * S, V], 0 in slots without a patch."""
    layout = window_layout(*images[0].shape[:2], VISION)
    patches = [patchify(image, VISION)[layout.patch_index] for image in images]
    values = [np.where(layout.mask[..., None], each, np.float32(0)) for each in patches]
    return np.stack(values).reshape(len(images), layout.mask.size, -1)


def timed(make: Callable, images: list[np.ndarray], rounds: int) -> tuple[float, float, float]:
    """Return seconds on the host, seconds to put, and megabytes."""
    host, put = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        arrays = make(images)
        made = time.perf_counter()
        jax.block_until_ready(jax.device_put(arrays, jax.devices()[0]))
        host.append(made - began)
        put.append(time.perf_counter() - made)
    size = sum(array.nbytes for array in jax.tree.leaves(arrays)) / 1e6
    return statistics.median(host), statistics.median(put), size


def differing(images: list[np.ndarray]) -> int:
    """Return the number of inputs of the tower that differ in real slots, of the first image."""
    pixels = as_pixels(images[:1])
    inputs = jax.jit(tower_inputs, static_argnums=(1, 2))(pixels, VISION.temporal_patch, np.float32)
    real = pixels.mask.reshape(1, -1)
    return int((np.asarray(inputs)[real] != normalized(images[:1])[real]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", type=int, default=756)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (options.side, options.side, 3)
    images = [rng.integers(0, 256, shape, np.uint8) for _ in range(options.images)]
    figures = {make: timed(make, images, options.rounds) for make in (normalized, as_pixels)}
    for make, (host, put, size) in figures.items():
        print(f"{make.__name__:10} {host:.3f} s on the host, {put:.3f} s to put, {size:.1f} MB")
    before, after = (sum(figures[make][:2]) for make in (normalized, as_pixels))
    print(f"{before / after:.1f} times faster; {differing(images)} inputs differ")


if __name__ == "__main__":
    main()

"""Model FLOPs against numbers worked by hand.

They are also compared with brute force over pairs of tokens and with the declared weights.
"""

import math

import numpy as np
import pytest

from segr1_jax.hf.load_weights import read_arch
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import TextArch, VisionArch
from segr1_jax.profile.model_flops import (
    Work,
    call_flops,
    language_flops,
    text_work,
    tower_flops,
    tower_work,
)

SEED = 3


def test_language_flops_by_hand():
    arch = TextArch(
        layers=2,
        hidden=8,
        intermediate=10,
        heads=4,
        kv_heads=2,
        head_dim=3,
        vocab=11,
        rope_theta=1.0,
        mrope_section=(1, 0, 0), norm_eps=1e-6, tied_head=True,
    )  # fmt: skip
    # per token and layer: q 8x12, k and v 8x6 each, o 12x8, MLP 3 of 8x10: 96 + 96 + 96 + 240 = 528
    # multiply-adds;
    # per pair: scores and values, 12 multiply-adds each; head 8x11 = 88 per completion token
    work = Work(text_tokens=5, text_pairs=7, head_tokens=3)
    assert language_flops(arch, work) == 2 * (2 * 5 * 528 + 2 * 7 * 24) + 2 * 3 * 88


def test_tower_flops_by_hand():
    arch = VisionArch(
        depth=3,
        hidden=4,
        intermediate=6,
        heads=2,
        out_hidden=8,
        in_channels=3,
        patch=2,
        temporal_patch=1,
        merge=2,
        window=4,
        full_layers=(1,),
    )
    # patch embedding 12x4 = 48; per layer q, k, v, o 4 of 4x4 and MLP 3 of 4x6: 64 + 72 = 136;
    # merger per 4 patches 16x16 + 16x8 = 384
    work = Work(patches=8, window_pairs=20, image_pairs=64)
    assert tower_flops(arch, work) == 2 * 8 * (48 + 3 * 136 + 96) + 2 * (2 * 20 + 64) * 2 * 4


def test_weights_of_the_modules_give_the_same_count(tmp_path):
    make_tiny_policy(tmp_path / "tiny", frame=84)
    arch = read_arch(tmp_path / "tiny")
    specs = Policy(arch).specs
    kernels = {
        name: math.prod(spec.shape) for name, spec in specs.items() if name.endswith(".kernel")
    }
    text = sum(size for name, size in kernels.items() if name.startswith("layers."))
    assert language_flops(arch.text, Work(text_tokens=1)) == 2 * text
    layers = sum(size for name, size in kernels.items() if name.startswith("vision.layers."))
    merger = sum(size for name, size in kernels.items() if name.startswith("vision.merge"))
    embedding = math.prod(specs["vision.patch_embed"].shape)
    assert tower_flops(arch.vision, Work(patches=4)) == 2 * (
        4 * layers + 4 * embedding + 4 * merger / arch.vision.merge**2
    )


def test_pairs_of_tokens_against_brute_force():
    rng = np.random.default_rng(SEED)
    prefix = np.arange(6) < np.array([[4], [6]])
    lengths = rng.integers(1, 6, (2, 3))
    own = np.arange(5) < lengths[..., None]
    pairs = 0
    for b in range(2):
        P = prefix[b].sum()
        pairs += sum(key <= query for query in range(P) for key in range(P))
        for g in range(3):
            pairs += sum(P + query + 1 for query in range(lengths[b, g]))
    assert text_work(prefix, own) == Work(
        text_tokens=10 + lengths.sum(), text_pairs=pairs, head_tokens=lengths.sum()
    )


def test_pairs_of_patches_against_brute_force():
    mask = np.arange(4) < np.array([[[4], [2], [3]]])  # windows of 4, 2 and 3 real patches
    image = np.array([[0, 0, 1]])
    real = [(w, image[0, w]) for w in range(3) for s in range(4) if mask[0, w, s]]
    window = sum(a[0] == b[0] for a in real for b in real)
    whole = sum(a[1] == b[1] for a in real for b in real)
    assert tower_work(mask, image) == Work(patches=9, window_pairs=window, image_pairs=whole)


@pytest.mark.parametrize(
    ("name", "adapters", "passes"),
    [("sample_block", False, 1), ("gradient", False, 3), ("gradient", True, 2)],
)
def test_passes_of_a_call(tmp_path, name, adapters, passes):
    make_tiny_policy(tmp_path / "tiny", frame=84)
    arch, work = read_arch(tmp_path / "tiny"), Work(text_tokens=3, head_tokens=1)
    assert call_flops(name, arch, work, adapters=adapters) == passes * language_flops(
        arch.text, work
    )

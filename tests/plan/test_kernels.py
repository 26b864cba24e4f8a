"""Kernels of hand-written HLO: bytes, FLOPs, counts and seconds worked by hand."""

import pytest

from segr1_jax.config.hardware import DEVICES
from segr1_jax.plan.kernels import kernels
from segr1_jax.plan.roofline import (
    H100_BANDWIDTH,
    H100_BF16,
    H100_F32,
    HOST,
    LAUNCH,
    ceilings,
)

H100 = ceilings(DEVICES["h100"])

KERNELS = """\
HloModule kernels, is_scheduled=true, entry_computation_layout={()->()}

%sliced (p0: f32[10,64,32], p1: s32[]) -> bf16[64,32] {
  %p0 = f32[10,64,32]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %half = bf16[10,64,32]{2,1,0} convert(%p0)
  %one = bf16[1,64,32]{2,1,0} dynamic-slice(%half, %p1, %zero, %zero), \
dynamic_slice_sizes={1,64,32}
  ROOT %layer = bf16[64,32]{1,0} bitcast(%one)
}

%cached (cache: bf16[5,8,32], token: f32[1,8,32], at: s32[]) -> bf16[40,32] {
  %cache = bf16[5,8,32]{2,1,0} parameter(0)
  %token = f32[1,8,32]{2,1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %half.1 = bf16[1,8,32]{2,1,0} convert(%token)
  %set = bf16[5,8,32]{2,1,0} dynamic-update-slice(%cache, %half.1, %at, %zero.1, %zero.1)
  ROOT %flat = bf16[40,32]{1,0} bitcast(%set)
}

%padded (row: bf16[1,32]) -> bf16[9,32] {
  %row = bf16[1,32]{1,0} parameter(0)
  %nothing = bf16[] constant(0)
  %blank = bf16[9,32]{1,0} broadcast(%nothing), dimensions={}
  %zero.2 = s32[] constant(0)
  ROOT %set.1 = bf16[9,32]{1,0} dynamic-update-slice(%blank, %row, %zero.2, %zero.2)
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%scattered (table: f32[100,16], rows: s32[3,1], more: f32[3,16]) -> f32[100,16] {
  %table = f32[100,16]{1,0} parameter(0)
  %rows = s32[3,1]{1,0} parameter(1)
  %more = f32[3,16]{1,0} parameter(2)
  ROOT %sums = f32[100,16]{1,0} scatter(%table, %rows, %more), update_window_dims={1}, to_apply=%add
}

%pair (a: f32[6,4], b: f32[6,4]) -> (f32[6,4], bf16[6,4]) {
  %a = f32[6,4]{1,0} parameter(0)
  %b = f32[6,4]{1,0} parameter(1)
  %both = f32[6,4]{1,0} add(%a, %b)
  %rounded = bf16[6,4]{1,0} convert(%both)
  ROOT %outputs = (f32[6,4]{1,0}, bf16[6,4]{1,0}) tuple(%both, %rounded)
}

%inner (i0: bf16[3,24,16]) -> bf16[24,16] {
  %i0 = bf16[3,24,16]{2,1,0} parameter(0)
  %last = bf16[1,24,16]{2,1,0} slice(%i0), slice={[2:3], [0:24], [0:16]}
  ROOT %kernel = bf16[24,16]{1,0} bitcast(%last)
}

%nested (left: bf16[40,24], stack: bf16[3,24,16]) -> f32[40,16] {
  %left = bf16[40,24]{1,0} parameter(0)
  %stack = bf16[3,24,16]{2,1,0} parameter(1)
  %right = bf16[24,16]{1,0} fusion(%stack), kind=kCustom, calls=%inner
  ROOT %dot = f32[40,16]{1,0} dot(%left, %right), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%library (weights: bf16[3,24,16], rows: bf16[40,24]) -> (bf16[40,16], s8[4096]) {
  %weights = bf16[3,24,16]{2,1,0} parameter(0)
  %rows = bf16[40,24]{1,0} parameter(1)
  %second = bf16[1,24,16]{2,1,0} slice(%weights), slice={[1:2], [0:24], [0:16]}
  %matrix = bf16[24,16]{1,0} bitcast(%second)
  %called = (bf16[40,16]{1,0}, s8[4096]{0}) custom-call(%rows, %matrix), \
custom_call_target="__cublas$gemm", backend_config={"lhs_contracting_dimensions":["1"]}
  %product = bf16[40,16]{1,0} get-tuple-element(%called), index=0
  %space = s8[4096]{0} get-tuple-element(%called), index=1
  ROOT %returned = (bf16[40,16]{1,0}, s8[4096]{0}) tuple(%product, %space)
}

ENTRY %main (w: f32[10,64,32], i: s32[]) -> f32[40,16] {
  %w = f32[10,64,32]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %kv = bf16[5,8,32]{2,1,0} parameter(2)
  %t = f32[1,8,32]{2,1,0} parameter(3)
  %r = bf16[1,32]{1,0} parameter(4)
  %e = f32[100,16]{1,0} parameter(5)
  %ids = s32[3,1]{1,0} parameter(6)
  %u = f32[3,16]{1,0} parameter(7)
  %m = f32[6,4]{1,0} parameter(8)
  %l = bf16[40,24]{1,0} parameter(9)
  %s = bf16[3,24,16]{2,1,0} parameter(10)
  %slicing = bf16[64,32]{1,0} fusion(%w, %i), kind=kLoop, calls=%sliced
  %caching = bf16[40,32]{1,0} fusion(%kv, %t, %i), kind=kLoop, calls=%cached
  %padding = bf16[9,32]{1,0} fusion(%r), kind=kLoop, calls=%padded
  %adding = f32[100,16]{1,0} fusion(%e, %ids, %u), kind=kInput, calls=%scattered
  %pairing = (f32[6,4]{1,0}, bf16[6,4]{1,0}) fusion(%m, %m), kind=kLoop, calls=%pair
  %first = f32[6,4]{1,0} get-tuple-element(%pairing), index=0
  %gemm = (f32[6,6]{1,0}, s8[4194304]{0}) custom-call(%first, %m), \
custom_call_target="__cublas$gemm", backend_config={"lhs_contracting_dimensions":["1"]}
  %copying = f32[10,32,64]{1,2,0} copy(%w)
  %leaving = (bf16[3,24,16]{2,1,0:S(5)}, bf16[3,24,16]{2,1,0}, u32[]) copy-start(%s), \
metadata={op_name="jit(step)/offload"}
  %left.1 = bf16[3,24,16]{2,1,0:S(5)} copy-done(%leaving)
  %calling = (bf16[40,16]{1,0}, s8[4096]{0}) fusion(%s, %l), kind=kCustom, calls=%library
  %aside = ((f32[10,64,32]{2,1,0}, s32[]), bf16[64,32]{1,0}, u32[]) fusion-start(%w, %i), \
kind=kLoop, calls=%sliced
  %beside = bf16[64,32]{1,0} fusion-done(%aside)
  ROOT %mixing = f32[40,16]{1,0} fusion(%l, %s), kind=kCustom, calls=%nested
}
"""

# Bytes read, bytes written, FLOPs.
BY_HAND = {
    "slicing": (64 * 32 * 4 + 4, 64 * 32 * 2, 0),  # a layer, cast after it is cut out
    "caching": (8 * 32 * 4 + 4, 8 * 32 * 2, 0),  # the token alone
    "padding": (32 * 2, 9 * 32 * 2, 0),  # nothing to update in place
    "adding": (2 * 3 * 16 * 4 + 3 * 4, 3 * 16 * 4, 0),  # three rows of the table and their sums
    "pairing": (2 * 6 * 4 * 4, 6 * 4 * (4 + 2), 0),
    "gemm": (2 * 6 * 4 * 4, 6 * 6 * 4, 2 * 6 * 6 * 4),  # without the workspace
    "copying": (10 * 64 * 32 * 4, 10 * 64 * 32 * 4, 0),
    "leaving": (3 * 24 * 16 * 2, 3 * 24 * 16 * 2, 0),
    "calling": (24 * 16 * 2 + 40 * 24 * 2, 40 * 16 * 2, 2 * 40 * 24 * 16),
    "aside": (64 * 32 * 4 + 4, 64 * 32 * 2, 0),
    "mixing": (40 * 24 * 2 + 24 * 16 * 2, 40 * 16 * 4, 2 * 40 * 24 * 16),  # one of three kernels
}


def found(text: str) -> dict:
    return {each.name: each for each in kernels(text, trips=1, true_share=1.0)}


@pytest.fixture(scope="module")
def single():
    return found(KERNELS)


def test_every_kernel_is_found_once(single):
    assert list(single) == list(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_bytes_and_flops(single, name):
    kernel = single[name]
    assert (kernel.traffic.read, kernel.traffic.written, kernel.flops) == BY_HAND[name]


def test_seconds(single):
    """Bytes or products, each product at the rate of its operands, and a launch."""

    def seconds(name: str) -> float:
        return H100.seconds(single[name]) - LAUNCH

    read, written, _ = BY_HAND["slicing"]
    assert seconds("slicing") == pytest.approx((read + written) / H100_BANDWIDTH)
    assert seconds("leaving") == pytest.approx(3 * 24 * 16 * 2 / HOST)
    assert [product.dtype for product in single["gemm"].products] == ["f32"]
    assert [product.dtype for product in single["mixing"].products] == ["bf16"]


def test_large_products_take_the_time_of_their_arithmetic():
    """4096^3: 100 MB, but 137 GFLOP."""
    dot = KERNELS.replace("[40,24]", "[4096,4096]").replace("[3,24,16]", "[3,4096,4096]")
    dot = dot.replace("[1,24,16]", "[1,4096,4096]").replace("[24,16]", "[4096,4096]")
    dot = dot.replace("[40,16]", "[4096,4096]")
    flops = 2 * 4096**3
    assert H100.seconds(found(dot)["mixing"]) == pytest.approx(flops / H100_BF16 + LAUNCH)
    single = dot.replace("bf16[4096", "f32[4096").replace("bf16[3,4096", "f32[3,4096")
    assert H100.seconds(found(single)["mixing"]) == pytest.approx(flops / H100_F32 + LAUNCH)


ATTENTION = """\
HloModule attention, is_scheduled=true

ENTRY %main (q: bf16[2,40,16,128], k: bf16[2,56,2,128]) -> bf16[2,16,40,128] {
  %q = bf16[2,40,16,128]{3,2,1,0} parameter(0)
  %k = bf16[2,56,2,128]{3,2,1,0} parameter(1)
  %lengths = s32[2]{0} parameter(2)
  %forward = (bf16[2,16,40,128]{3,1,2,0}, f32[2,16,40]{2,1,0}, u8[512]{0}) \
custom-call(%q, %k, %k, %lengths, %lengths), custom_call_target="__cudnn$fmhaSoftmax", \
backend_config={"cudnn_fmha_backend_config": {"fmha_scale": 0.08, "intermediate_tensor_shape": \
{"element_type": "BF16", "dimensions": ["2", "16", "40", "56"]}, "mask_type": "PADDING"}}
  %out = bf16[2,16,40,128]{3,1,2,0} get-tuple-element(%forward), index=0
  %logsumexp = f32[2,16,40]{2,1,0} get-tuple-element(%forward), index=1
  %backward = (bf16[2,16,40,128]{3,1,2,0}, bf16[2,2,56,128]{3,1,2,0}, u8[0]{0}) \
custom-call(%q, %k, %k, %logsumexp, %out, %out), \
custom_call_target="__cudnn$fmhaSoftmaxBackward", \
backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": \
{"dimensions": ["2", "16", "40", "56"]}, "mask_type": "PADDING_CAUSAL"}}
  ROOT %gradient = bf16[2,16,40,128]{3,1,2,0} get-tuple-element(%backward), index=0
}
"""


def test_fused_attention():
    """Scores and mixing forward; backward the scores again and four gradients, half if causal."""
    by_name = found(ATTENTION)
    scores = 2 * 16 * 40 * 56 * 128
    assert {name: kernel.flops for name, kernel in by_name.items()} == {
        "forward": 2 * 2 * scores,
        "backward": 2 * 5 * scores // 2,
    }
    queries, keys = 2 * 40 * 16 * 128, 2 * 56 * 2 * 128
    forward = by_name["forward"].traffic
    assert forward.read == 2 * (queries + 2 * keys) + 2 * 2 * 4
    assert forward.written == 2 * queries + 4 * 2 * 16 * 40

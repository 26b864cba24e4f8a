"""Loops, branches and collectives of hand-written HLO: counts, bytes and seconds by hand."""

import pytest

from segr1_jax.config.hardware import DEVICES
from segr1_jax.plan.kernels import kernels
from segr1_jax.plan.roofline import H100_BANDWIDTH, LAUNCH, NVLINK, ceilings, roofline

TRIPS, TRUE_SHARE = 7, 0.25
H100 = ceilings(DEVICES["h100"])


def found(text: str) -> dict:
    return {each.name: each for each in kernels(text, trips=TRIPS, true_share=TRUE_SHARE)}


LOOPS = """\
HloModule loops, is_scheduled=true

%twice (a: f32[1000]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  ROOT %b = f32[1000]{0} add(%a, %a)
}

%layer (state: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %state = (s32[], f32[1000]{0}) parameter(0)
  %x = f32[1000]{0} get-tuple-element(%state), index=1
  %i = s32[] get-tuple-element(%state), index=0
  %branch = f32[1000]{0} conditional(%i, %x, %x), true_computation=%full, false_computation=%window
  ROOT %next = (s32[], f32[1000]{0}) tuple(%i, %branch)
}

%full (f: f32[1000]) -> f32[1000] {
  %f = f32[1000]{0} parameter(0)
  ROOT %of_all = f32[1000]{0} fusion(%f), kind=kLoop, calls=%twice
}

%window (g: f32[1000]) -> f32[1000] {
  %g = f32[1000]{0} parameter(0)
  %before = f32[1000]{0} copy(%g)
  ROOT %of_window = f32[1000]{0} fusion(%before), kind=kLoop, calls=%twice
}

%fewer (state.1: (s32[], f32[1000])) -> pred[] {
  %state.1 = (s32[], f32[1000]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

%token (state.2: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %state.2 = (s32[], f32[1000]{0}) parameter(0)
  ROOT %layers = (s32[], f32[1000]{0}) while(%state.2), \
condition=%fewer, body=%layer, backend_config={"known_trip_count":{"n":"3"}}
}

%unfinished (state.3: (s32[], f32[1000])) -> pred[] {
  %state.3 = (s32[], f32[1000]{0}) parameter(0)
  %y = f32[1000]{0} get-tuple-element(%state.3), index=1
  ROOT %any = pred[] reduce(%y), dimensions={0}
}

ENTRY %main (start: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %start = (s32[], f32[1000]{0}) parameter(0)
  ROOT %decode = (s32[], f32[1000]{0}) while(%start), \
condition=%unfinished, body=%token, metadata={op_name="jit(sample)/while"}
}
"""


def test_loops_and_branches():
    """Decoding: 7 tokens of 3 layers, a quarter of which attend to everything."""
    by_name = found(LOOPS)
    times = {name: kernel.times for name, kernel in by_name.items()}
    windows = TRIPS * 3 * (1 - TRUE_SHARE)
    assert times == {
        "of_all": TRIPS * 3 * TRUE_SHARE,
        "before": windows,
        "of_window": windows,
        "any": TRIPS,
    }
    assert [loop.name for loop in by_name["before"].loops] == ["decode", "layers"]
    result = roofline(list(by_name.values()), H100)
    per_layer = 8000 * (TRUE_SHARE + 2 * (1 - TRUE_SHARE))
    decoding, layers = result.loops
    assert result.decoding == decoding.iteration * TRIPS == result.total
    assert (result.total - result.decoding).seconds == 0
    assert decoding.loop.source == "jit(sample)/while"
    assert layers.iteration.bytes == pytest.approx(per_layer)
    assert decoding.iteration.bytes == pytest.approx(3 * per_layer + 4001)
    assert decoding.iteration.kernels == pytest.approx(3 * 1.75 + 1)
    assert result.total.bytes == pytest.approx(TRIPS * decoding.iteration.bytes)
    seconds = result.total.bytes / H100_BANDWIDTH + LAUNCH * result.total.kernels
    assert result.total.seconds == pytest.approx(seconds)


COLLECTIVES = """\
HloModule collectives, is_scheduled=true, num_partitions=8

ENTRY %main (w: bf16[128,32], g: f32[512,32]) -> f32[64,32] {
  %w = bf16[128,32]{1,0} parameter(0)
  %g = f32[512,32]{1,0} parameter(1)
  %start = (bf16[128,32]{1,0}, bf16[512,32]{1,0}) all-gather-start(%w), \
replica_groups=[2,4]<=[8], dimensions={0}
  %whole = bf16[512,32]{1,0} all-gather-done(%start)
  %sum = f32[512,32]{1,0} all-reduce(%g), \
replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %piece = ((f32[512,32]{1,0}), f32[128,32]{1,0}) reduce-scatter-start(%sum), \
replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, to_apply=%add
  %piece.1 = f32[128,32]{1,0} reduce-scatter-done(%piece)
  %half = f32[256,32]{1,0} reduce-scatter(%sum), \
replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}, dimensions={0}, to_apply=%add
  ROOT %part = f32[64,32]{1,0} reduce-scatter(%sum), \
replica_groups={}, dimensions={0}, to_apply=%add
}
"""


def test_collectives():
    """A ring of n devices: each receives (n - 1) / n of the array, twice in an all-reduce."""
    by_name = found(COLLECTIVES)
    wire = {name: kernel.wire for name, kernel in by_name.items()}
    whole = 512 * 32
    assert wire == {
        "start": 2 * whole * 3 / 4,
        "sum": 2 * 4 * whole * 1 / 2,
        "piece": 4 * whole * 3 / 4,
        "half": 4 * whole * 1 / 2,
        "part": 4 * whole * 7 / 8,
    }
    assert by_name["start"].traffic.written == 2 * whole
    assert by_name["piece"].traffic.written == 4 * whole / 4
    total = roofline(list(by_name.values()), H100).total
    assert total.wire == sum(wire.values())
    assert total.collectives == total.seconds
    assert total.seconds == pytest.approx(total.wire / NVLINK["h100"] + 5 * LAUNCH)

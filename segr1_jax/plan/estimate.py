"""Temporaries and FLOPs of every program by tracing alone.

Tracing takes seconds at any size and needs none of the run's devices.

Calibration, estimate over the compiler's figure, with `xla` attention and the sampler in one
program: TPU (7B on v5e:8x8) gradient .55, reference .7, sampler 2.4; H100 (the shipped 3B and 7B
files, and 24 prompts of 8 answers on one GPU) features .69, sampler .54 to .91, reference .86 to
1.01, gradient .73 to 1.08, answer .91 to 1.15. MARGIN covers the lowest of them
(launch/RESULTS.md). Without devices the programs are traced with `xla` attention, so that on GPUs,
where `policy.attention=auto` is cuDNN's, the estimate is above the compiler's figure: features 10.9
GB against 1.1 for the shipped 3B on one GPU. `--topology` compiles the programs that run.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass

import jax
from jax.sharding import AbstractMesh

from segr1_jax.plan.flops import matmul_flops
from segr1_jax.plan.liveness import Size, temporary_bytes
from segr1_jax.plan.program import Program, shard_bytes
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.params import STACKED
from segr1_jax.policy.sharding import ROLLOUT_RULES, TRAIN_RULES
from segr1_jax.runtime.mesh import AXES, AXIS_TYPES

# Largest ratio of the compiler's temporaries to the estimate.
MARGIN = 1.9


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimates for one device: programs are traced with its rows and whole weights."""

    programs: Programs

    @functools.cached_property
    def local(self) -> Programs:
        shards, config = self.programs.engine.placement.row_shards, self.programs.config
        config = dataclasses.replace(
            config, batch=config.batch // shards, eval_batch=config.eval_batch // shards
        )
        mesh = AbstractMesh((1,) * len(AXES), AXES, axis_types=AXIS_TYPES)
        return dataclasses.replace(self.programs, config=config, mesh=mesh, hosts=1)

    @functools.cached_property
    def traced(self) -> dict[str, tuple[Program, jax.extend.core.Jaxpr]]:
        return {
            each.name: (each, each.function.trace(*each.arguments).jaxpr.jaxpr)
            for each in self.local.all()
        }

    def temporaries(self) -> dict[str, float]:
        """Return bytes of temporaries by program; activations are not split over `tensor`."""
        size = shard_size(self.programs)
        found = {name: temporary_bytes(jaxpr, size) for name, (_, jaxpr) in self.traced.items()}
        # The reference's weights need no cast, so the trace has no temporary for the gathered head.
        if "reference_logprobs" in found:
            found["reference_logprobs"] += gathered_head(self.programs)
        if self.programs.engine.placement.row_shards > 1:
            found["decode_weights"] += largest_stack(self.programs)
        return found

    def flops(self, trips: int) -> dict[str, float]:
        """Return FLOPs of one call by program, shared evenly by a `tensor` group.

        Decoding takes `trips` iterations.
        """
        share, tensor = self.programs.arch.vision.full_share, self.programs.mesh.shape["tensor"]
        return {
            name: matmul_flops(jaxpr, trips=trips, true_share=share) / tensor
            for name, (_, jaxpr) in self.traced.items()
        }


def gathered_head(programs: Programs) -> float:
    """Return bytes of the gathered vocabulary projection without the device's own part."""
    name = "embed" if programs.arch.text.tied_head else "head.kernel"
    kept, whole = programs.reference.get(name), programs.rollout_copy[name]
    return (
        shard_bytes(whole) if kept is not None and shard_bytes(kept) < shard_bytes(whole) else 0.0
    )


def largest_stack(programs: Programs) -> float:
    """Return bytes of the largest weight of the rollout copy, which exists twice while gathered."""
    return max(shard_bytes(x) for x in programs.rollout_copy.values())


def shard_size(programs: Programs) -> Size:
    """Return bytes of a temporary: split as a stack of weights of its shape, or gathered."""
    engine, divisor = programs.engine, {}
    for rules, stacks in ((ROLLOUT_RULES, False), (TRAIN_RULES, True)):
        for name, sharding in engine.placement.weights(engine.policy.specs, rules).items():
            shape = engine.policy.specs[name].shape
            parts = math.prod(shape) // math.prod(sharding.shard_shape(shape))
            if stacks == name.startswith(STACKED):
                divisor[tuple(sorted(shape))] = parts
            elif name.startswith(STACKED):
                divisor[tuple(sorted(shape[1:]))] = parts

    def size(shape: tuple[int, ...], dtype) -> float:
        return (
            math.prod(shape) * getattr(dtype, "itemsize", 8) / divisor.get(tuple(sorted(shape)), 1)
        )

    return size

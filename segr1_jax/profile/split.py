"""Split the time of `sample` into prefill and decoding."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import jax
import jax.numpy as jnp

from segr1_jax.config.schema import RunConfig
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.profile.recorder import Seen, timed
from segr1_jax.runtime.initial_weights import recorded_start
from segr1_jax.runtime.mesh import make_mesh
from segr1_jax.train.make_engine import make_engine

REPEATS = 3


@dataclass(frozen=True)
class Split:
    """Seconds of one `sample` call and of its prefill, timed apart.

    `turns` is the number of tokens of the longest completion.
    """

    prefill: float
    sample: float
    turns: float

    @property
    def decode(self) -> float:
        return self.sample - self.prefill


def split_sample(config: RunConfig, sample: Seen) -> Split:
    """Time the prefill alone on zeros of the shapes of `sample`: values do not change the time."""
    engine = make_engine(
        config, read_arch(Path(recorded_start(config).base)), make_mesh(config.mesh), builder=None
    )
    arguments = jax.tree.map(_zeros, sample.arguments[:2])
    # The first call compiles and is not timed.
    jax.block_until_ready(engine.prefill(*arguments))
    prefill = min(timed(engine.prefill, arguments)[0] for _ in range(REPEATS))
    return Split(prefill, mean(sample.seconds), mean(sample.turns))


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(shape.shape, shape.dtype, device=shape.sharding)

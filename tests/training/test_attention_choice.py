"""The attention kernel of a run: `auto` is cuDNN where it can run, an explicit choice wins."""

import pytest
from jax.sharding import AbstractMesh

from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.runtime.mesh import AXES, Placement
from segr1_jax.training.make_engine import attention_of

MESH = AbstractMesh((1, 1, 1), AXES)


class OnGpus(Placement):
    """A mesh of GPUs, without any."""

    on_gpus = True


@pytest.mark.parametrize(
    ("overrides", "on_gpus", "kernel"),
    [
        ([], True, "cudnn"),
        ([], False, "xla"),
        (["policy.compute_dtype=float32"], True, "xla"),
        (["policy.attention=xla"], True, "xla"),
        (["policy.attention=splash"], False, "splash"),
    ],
)
def test_auto_is_cudnn_on_gpus_in_bfloat16(overrides, on_gpus, kernel):
    config = override(RunConfig(), overrides)
    assert attention_of(config, (OnGpus if on_gpus else Placement)(MESH)) == kernel

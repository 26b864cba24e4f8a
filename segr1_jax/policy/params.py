"""Weights as a flat dictionary, and the policy as a pure function of it.

`Params` maps a dotted path ("layers.attention.q.kernel") to an array. Checkpoints, sharding rules,
the Hugging Face key table and the optimizer all use these paths. The modules of a policy family are
bound to the arrays only while a step is traced.
"""

import dataclasses
import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from segr1_jax.policy.attention import Attention
from segr1_jax.policy.config import LoraConfig, Remat
from segr1_jax.policy.layers import Axes
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.policy.qwen2_5_vl.model import Qwen25VL

Params = dict[str, jax.Array]
STACKED = ("layers.", "vision.layers.")
TOWER = "vision."
ADAPTER = (".lora_a", ".lora_b")


@dataclass(frozen=True)
class WeightSpec:
    """Shape of a weight and one logical axis name per axis; the layer axis is first if stacked."""

    shape: tuple[int, ...]
    axes: Axes


@dataclass(frozen=True, eq=False)
class Policy:
    """Architecture with its compute settings, without weights.

    Attributes:
        arch: sizes and special tokens.
        dtype: dtype of the computation; weights keep their own.
        remat: what the backward pass recomputes.
        lora: adapters on the linear maps of the language model; their names end in ADAPTER.
        attention: implementation of attention in training.
    """

    arch: PolicyArch
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"
    lora: LoraConfig | None = None
    attention: Attention = Attention()
    _graphdef: nnx.GraphDef = field(init=False, repr=False)
    _variables: dict = field(init=False, repr=False)

    def __post_init__(self):
        model = nnx.eval_shape(lambda: self._make(0))
        graphdef, state = nnx.split(model)
        flat = nnx.to_flat_state(state)
        variables = {".".join(path): (path, variable) for path, variable in flat}
        object.__setattr__(self, "_graphdef", graphdef)
        object.__setattr__(self, "_variables", variables)

    def _make(self, seed) -> Qwen25VL:
        return Qwen25VL(
            self.arch,
            nnx.Rngs(seed),
            dtype=self.dtype,
            remat=self.remat,
            lora=self.lora,
            attention=self.attention,
        )

    @functools.cached_property
    def base(self) -> "Policy":
        """The same policy without adapters.

        Checkpoints in the Hugging Face format hold its weights, and it is the reference policy of a
        LoRA run.
        """
        return dataclasses.replace(self, lora=None) if self.lora else self

    @property
    def specs(self) -> dict[str, WeightSpec]:
        """Shape and logical axes of every weight, from the modules' own declarations."""
        return {
            name: WeightSpec(variable.shape, _axes(name, variable))
            for name, (_, variable) in self._variables.items()
        }

    def bind(self, params: Params) -> Qwen25VL:
        """Return the model with these weights; cheap, for use inside a traced function."""
        flat = [
            (path, variable.replace(params[name]))
            for name, (path, variable) in self._variables.items()
        ]
        return nnx.merge(self._graphdef, nnx.from_flat_state(flat))

    def init(self, seed: int) -> Params:
        """Return random float32 weights, for tests and for sizes that no checkpoint has."""
        _, state = nnx.split(self._make(seed))
        return {".".join(path): variable[...] for path, variable in nnx.to_flat_state(state)}


def _axes(name: str, variable: nnx.Variable) -> Axes:
    declared = tuple(variable.get_metadata("axes"))
    return (None, *declared) if name.startswith(STACKED) else declared

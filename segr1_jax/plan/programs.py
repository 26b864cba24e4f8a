"""The jitted programs of a run with their arguments as shapes with shardings.

They need no weights, no tokenizer and no devices. Everything here comes from the declarations
that training itself uses (Engine, Placement, Policy.specs, stack_prompts).
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from segr1_jax.config.schema import RunConfig
from segr1_jax.objective.batch import AnswerBatch, GroupBatch
from segr1_jax.objective.loss import answer_loss, grpo_loss
from segr1_jax.objective.update import TrainBatch
from segr1_jax.plan.blank_prompts import blank_prompts
from segr1_jax.plan.program import Program
from segr1_jax.plan.update_programs import PinnedMoments, pinned_moments, update_programs
from segr1_jax.policy.decode_weights import decode_specs
from segr1_jax.policy.decoding import grown
from segr1_jax.policy.params import ADAPTER
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.policy.sharding import TRAIN_RULES
from segr1_jax.runtime.mesh import check_tensor_groups
from segr1_jax.training.block_sampler import BlockSampler, decode_layout
from segr1_jax.training.engine import Engine
from segr1_jax.training.make_engine import make_engine


@dataclass(frozen=True, eq=False)
class Programs:
    """A run on `mesh` of `hosts` processes, without values.

    Its trees are ShapeDtypeStructs with shardings and global shapes.

    Attributes:
        answer_tokens: length of all completions in reference and gradient; 0 for
            rollout.max_tokens.
    """

    config: RunConfig
    arch: PolicyArch
    mesh: Mesh | AbstractMesh
    hosts: int = 1
    answer_tokens: int = 0

    @functools.cached_property
    def engine(self) -> Engine:
        return make_engine(self.config, self.arch, self.mesh, builder=None)

    def check(self) -> None:
        """Raise UserError if a batch or a tensor group does not fit the mesh, as a run does."""
        config = self.config
        self.engine.placement.check_sizes(
            batch=config.batch // config.micro_batches, eval_batch=config.eval_batch
        )
        # make_mesh lays devices host by host.
        owners = np.repeat(range(self.hosts), self.mesh.size // self.hosts)
        check_tensor_groups(self.mesh.shape["tensor"], owners.tolist())

    @property
    def capacity(self) -> int:
        """Completion tokens of a prompt in reference and gradient."""
        tokens = self.answer_tokens * self.engine.group
        sizes = self.engine.capacities
        return next((size for size in sizes if 0 < tokens <= size), sizes[-1])

    @functools.cached_property
    def state(self):
        """Master weights, optimizer state and counter."""
        return _placed(self.engine.state_shapes, self.engine.state_shardings)

    @functools.cached_property
    def frozen(self):
        return self._weights(self.engine.frozen_specs, self.engine.policy.dtype, TRAIN_RULES)

    @functools.cached_property
    def reference(self):
        """Weights held only for the reference policy; empty without a KL term."""
        if self.config.stage != "grpo" or self.config.objective.beta == 0:
            return {}
        own = {
            name: spec
            for name, spec in self.engine.trained_specs.items()
            if not name.endswith(ADAPTER)
        }
        return self._weights(own, self.engine.policy.dtype, TRAIN_RULES)

    @functools.cached_property
    def initial(self):
        """Initial float32 weights, alive until the reference weights are made from them."""
        return {
            name: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=x.sharding)
            for name, x in self.reference.items()
        }

    @functools.cached_property
    def rollout_copy(self):
        """Weights as decoding reads them."""
        specs = decode_specs(
            self.engine.policy, decode_layout(self.engine.placement, self.engine.policy)
        )
        return self._weights(specs, self.engine.policy.dtype, self.engine.rollout_rules)

    def pixels(self, rows: int):
        """Return prompts as the host makes them, with images as patches."""
        return self._rows(blank_prompts(self.config, self.arch), rows)

    def prompts(self, rows: int):
        """Return prompts as the programs take them: a frozen tower's features replace patches."""
        return self._rows(
            jax.eval_shape(
                self.engine.with_features, self.pixels(rows), self.frozen | self.state.params
            )
        )

    @functools.cached_property
    def samples(self):
        """Sampled completions."""
        return self._rows(self.decode.function.eval_shape(*self.decode.arguments)[0].samples)

    @functools.cached_property
    def totals(self):
        """Float32 gradient and metrics, to which every micro-batch is added."""
        return self.gradient.arguments[0]

    @functools.cached_property
    def features(self) -> Program:
        """The frozen tower on a batch, if the tower is frozen."""
        images = self.pixels(self.config.batch).images
        return Program("features", self.engine._features, (self.frozen | self.state.params, images))

    @functools.cached_property
    def copy(self) -> Program:
        weights = self.frozen | self.state.params
        return Program("decode_weights", self.engine.decode_weights, (weights,))

    @functools.cached_property
    def prefill(self) -> Program:
        """Prefill of the prompts of a batch."""
        return self._prefill(self.engine.sampler, self.config.batch)

    @functools.cached_property
    def decode(self) -> Program:
        """Decoding of a batch, at the largest capacity of the caches."""
        return self._decode(self.engine.sampler, self.prefill)

    @functools.cached_property
    def answer_prefill(self) -> Program:
        """Prefill of the prompts of an evaluation batch."""
        return self._prefill(self.engine.answerer, self.config.eval_batch)

    @functools.cached_property
    def answer_decode(self) -> Program:
        """Greedy decoding of an evaluation batch."""
        return self._decode(self.engine.answerer, self.answer_prefill)

    def _prefill(self, sampler: BlockSampler, rows: int) -> Program:
        weights = self.frozen | self.state.params
        calls = int(sampler is self.engine.sampler)
        arguments = (weights, self.prompts(rows), *self._keys(rows))
        return Program(sampler.prefill.name, sampler.prefill, arguments, calls)

    def _decode(self, sampler: BlockSampler, prefill: Program) -> Program:
        prefilled, state, own = _placed(
            sampler.prefill.eval_shape(*prefill.arguments), sampler.shardings
        )
        capacity = sampler.sampler.max_tokens
        own = _placed(jax.eval_shape(lambda x: grown(x, capacity), own), sampler.shardings[2])
        stop = jax.ShapeDtypeStruct((), np.int32)
        arguments = (self.rollout_copy, prefilled, state, own, stop)
        return Program(sampler.block.name, sampler.block, arguments, prefill.calls)

    @functools.cached_property
    def reference_logprobs(self) -> Program:
        rows = self.config.batch // self.config.micro_batches
        samples = self._rows(self.samples, rows)
        arguments = (
            self.frozen | self.reference,
            self.prompts(rows),
            samples.tokens,
            samples.mask,
            self.capacity,
        )
        reference = self.engine.reference_logprobs
        return Program(reference.name, reference, arguments, self.config.micro_batches)

    @functools.cached_property
    def gradient(self) -> Program:
        rows = self.config.batch // self.config.micro_batches
        loss, completions = self._grpo(rows) if self.config.stage == "grpo" else self._sft(rows)
        weights = (self.state.params, self.frozen)
        batch = TrainBatch(self.prompts(rows), completions)
        gradient = self.engine.gradient(loss)
        totals = jax.eval_shape(gradient.zeros, *weights, batch)
        totals = _placed(totals, self.engine._totals_shardings)
        arguments = (totals, *weights, batch, self.capacity)
        return Program("gradient", gradient.add, arguments, self.config.micro_batches)

    @functools.cached_property
    def updates(self) -> tuple[Program, ...]:
        """The programs of an update."""
        return update_programs(self.engine, self.state, self.totals)

    @functools.cached_property
    def pinned_moments(self) -> PinnedMoments | None:
        """Sizes of moments on the host; None where they are on the devices."""
        return pinned_moments(self.engine, self.state)

    def all(self) -> tuple[Program, ...]:
        """Return the programs of the stage in the order of a step."""
        if self.config.stage == "sft":
            answer = (self.copy, self.answer_prefill, self.answer_decode)
            return (*self._towers(), self.gradient, *self.updates, *answer)
        # A LoRA run holds no separate reference weights but still computes its log-probabilities.
        scored = (self.reference_logprobs,) if self.config.objective.beta > 0 else ()
        return (
            *self._towers(),
            self.copy,
            self.prefill,
            self.decode,
            *scored,
            self.gradient,
            *self.updates,
            self.answer_prefill,
            self.answer_decode,
        )

    def of_completions(self) -> tuple[Program, ...]:
        """Return the programs that compute whole completions."""
        names = ("reference_logprobs", "gradient")
        return tuple(program for program in self.all() if program.name in names)

    def _towers(self) -> tuple[Program, ...]:
        return (self.features,) if self.config.policy.tower == "frozen" else ()

    def _grpo(self, rows: int):
        drawn = self._rows(self.samples, rows)
        per_answer = self._rows(jax.ShapeDtypeStruct(drawn.tokens.shape[:2], np.float32))
        completions = GroupBatch(
            drawn.tokens, drawn.mask, per_answer, per_answer, drawn.logprobs, drawn.logprobs
        )
        return functools.partial(grpo_loss, objective=self.config.objective), completions

    def _sft(self, rows: int):
        shape = (rows, 1, self.config.rollout.max_tokens)
        fields = ((shape, np.int32), (shape, np.bool_), (shape[:2], np.float32))
        return answer_loss, AnswerBatch(
            *(self._rows(jax.ShapeDtypeStruct(*field)) for field in fields)
        )

    def _keys(self, rows: int):
        key = jax.eval_shape(jax.random.key, self.config.seed)
        ids = self._rows(jax.ShapeDtypeStruct((rows,), np.int32))
        return jax.ShapeDtypeStruct(
            key.shape, key.dtype, sharding=self.engine.placement.replicated
        ), ids

    def _weights(self, specs, dtype, rules):
        shardings = self.engine.placement.weights(specs, rules)
        return {
            name: jax.ShapeDtypeStruct(spec.shape, jnp.dtype(dtype), sharding=shardings[name])
            for name, spec in specs.items()
        }

    def _rows(self, tree, rows: int | None = None):
        """Return arrays split over the mesh by their first axis, of `rows` rows (or their own)."""

        def place(x):
            shape = x.shape if rows is None else (rows, *x.shape[1:])
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=self.engine.placement.rows)

        return jax.tree.map(place, tree)


def _placed(tree, shardings):
    """Return `tree` with the shardings of a tree of the same structure, or of a prefix of it."""

    def place(sharding, part):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part
        )

    return jax.tree.map(place, shardings, tree)

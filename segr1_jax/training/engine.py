"""The policy on its mesh: the jitted functions that a run calls, with their shardings.

The programs of the update are in `moments`, the division of a batch in `micro_batches`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from segr1_jax.config.schema import RunConfig
from segr1_jax.objective.update import (
    LossFn,
    Totals,
    TrainState,
    init_state,
    make_gradient,
)
from segr1_jax.policy.decode_weights import decode_specs, decode_weights
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import ADAPTER, TOWER, Params, Policy, WeightSpec
from segr1_jax.policy.qwen2_5_vl.inputs import stack_prompts, window_bucket
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.qwen2_5_vl.vision import Features, Images
from segr1_jax.policy.sharding import ROLLOUT_RULES, TRAIN_RULES
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.rollout.completions import to_completions
from segr1_jax.rollout.sampler import Sampler, Samples
from segr1_jax.runtime.compiled_functions import Watched
from segr1_jax.runtime.mesh import Placement, max_over_processes
from segr1_jax.training.accumulation import Accumulation
from segr1_jax.training.block_sampler import (
    BlockSampler,
    RolloutWeights,
    decode_layout,
    make_block_sampler,
)
from segr1_jax.training.micro_batches import Division, capacities
from segr1_jax.training.moments import DeviceMoments, HostMoments
from segr1_jax.types import Completion, Prompt


@dataclass(frozen=True)
class Engine:
    """Configuration, placement, policy and prompt builder of one run; it holds no weights.

    A plan builds no prompts and has no builder.
    """

    config: RunConfig
    placement: Placement
    policy: Policy
    builder: PromptBuilder | None
    optimizer: optax.GradientTransformation

    def check_rows(self) -> None:
        """Raise UserError if a batch does not fit the mesh."""
        config = self.config
        self.placement.check_rows(
            batch=config.batch // config.micro_batches, eval_batch=config.eval_batch
        )

    @functools.cached_property
    def trained_specs(self) -> dict[str, WeightSpec]:
        """Weights that updates change: adapters if there are any, else all but a frozen tower."""
        specs = self.policy.specs
        adapters = {name: spec for name, spec in specs.items() if name.endswith(ADAPTER)}
        kept = TOWER if self.config.policy.tower == "frozen" else ()
        return adapters or {name: spec for name, spec in specs.items() if not name.startswith(kept)}

    @property
    def frozen_specs(self) -> dict[str, WeightSpec]:
        """Weights that no update changes."""
        return {
            name: spec for name, spec in self.policy.specs.items() if name not in self.trained_specs
        }

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """Shardings of a TrainState of this run."""
        on_host = self.config.optimizer.moments == "host"
        return self.placement.state(self.trained_specs, self.optimizer, moments_on_host=on_host)

    @functools.cached_property
    def init_adapters(self) -> Watched[[], Params]:
        """() -> the initial adapters, the same on every mesh; no weights if there are none."""
        names = [name for name in self.trained_specs if name.endswith(ADAPTER)]
        shardings = {name: self.state_shardings.params[name] for name in names}

        def init() -> Params:
            # Traced: weights other than the adapters are never computed.
            weights = self.policy.init(self.config.seed)
            return {name: weights[name] for name in names}

        return Watched("init_adapters", init, out_shardings=shardings)

    @functools.cached_property
    def moments(self) -> DeviceMoments | HostMoments:
        """The programs that initialize and update a TrainState."""
        if self.config.optimizer.moments == "host":
            return HostMoments(self.config, self.state_shapes.params, self.state_shardings)
        return DeviceMoments(self.config, self.optimizer, self.state_shardings)

    @functools.cached_property
    def state_shapes(self) -> TrainState:
        """Shapes of a TrainState of this run."""
        trained = {
            name: jax.ShapeDtypeStruct(spec.shape, np.float32)
            for name, spec in self.trained_specs.items()
        }
        return jax.eval_shape(lambda params: init_state(params, self.optimizer), trained)

    @property
    def rollout_rules(self) -> dict[str, str | None]:
        """Rules for the shardings of the weights of a rollout."""
        return ROLLOUT_RULES if self.config.rollout.weights == "gathered" else TRAIN_RULES

    def rollout_weights(self, params: Params) -> RolloutWeights:
        """Return the weights of one rollout: those of the prefill, and a copy for decoding."""
        return RolloutWeights(params, self.decode_weights(params))

    @functools.cached_property
    def decode_weights(self) -> Watched[[Params], Params]:
        """All weights -> the prepared copy that decoding reads, sharded for one rollout."""

        layout = decode_layout(self.placement, self.policy)

        def prepare(params: Params) -> Params:
            return decode_weights(self.policy, params, layout)

        specs = decode_specs(self.policy, layout)
        shardings = self.placement.weights(specs, self.rollout_rules)
        return Watched("decode_weights", prepare, out_shardings=shardings)

    def reference_weights(self, initial: Params, frozen: Params) -> Params:
        """Return the reference policy: initial weights in the compute dtype, without adapters."""
        shardings = {name: value.sharding for name, value in initial.items()}
        return frozen | Watched("reference_weights", self._cast, out_shardings=shardings)(initial)

    def with_features(self, prompts: PromptBatch, params: Params) -> PromptBatch:
        """Compute the image features of a frozen tower once, for rollout, reference and update.

        A trained tower computes them in each of these.
        """
        if any(name.startswith(TOWER) for name in self.trained_specs):
            return prompts
        return prompts._replace(images=self._features(params, prompts.images))

    @functools.cached_property
    def _features(self) -> Watched[[Params, Images], Features]:
        def features(params: Params, images: Images) -> Features:
            return Features(self.policy.bind(params).image_features(images))

        return self._jit("features", features, self.placement.rows)

    def _cast(self, params: Params) -> Params:
        return jax.tree.map(lambda x: x.astype(self.policy.dtype), params)

    def gradient(self, loss: LossFn) -> Accumulation:
        """Return the programs that add up the gradient of `loss` over micro-batches."""
        temperature = self.config.rollout.temperature if self.config.stage == "grpo" else 1.0
        programs = make_gradient(
            self.policy, loss, temperature=temperature, head_chunk=self.config.policy.head_chunk
        )
        whole = self._totals_shardings
        options = {"donate_argnums": 0, "static_argnums": 4}
        return Accumulation(
            self._jit("zero_totals", programs.zeros, whole),
            self._jit("gradient", programs.add, whole, **options),
            self.capacities,
        )

    @property
    def _totals_shardings(self) -> Totals:
        whole = self.placement.replicated
        return Totals(self.state_shardings.params, whole, whole, whole)

    @functools.cached_property
    def micro_batches(self) -> Division:
        """(batch, completion tokens of each prompt of this process) -> micro-batches."""
        return Division(self.placement, self.config.micro_batches, self.capacities)

    @functools.cached_property
    def capacities(self) -> list[int]:
        """Numbers of completion tokens per prompt for which programs are compiled."""
        return capacities(self.config.rollout.max_tokens * self.group)

    @property
    def group(self) -> int:
        """Completions of a prompt in training: one target answer in SFT."""
        return self.config.rollout.group if self.config.stage == "grpo" else 1

    @functools.cached_property
    def reference_logprobs(self) -> Watched[..., jax.Array]:
        """(reference weights, prompts, tokens, mask, slots) -> logprobs of the completion tokens.

        `slots` is as in score_tokens, and is static.
        """

        def score(params: Params, prompts: PromptBatch, tokens, mask, slots: int | None):
            scores = score_tokens(
                self.policy.base.bind(params),
                prompts,
                tokens,
                mask,
                temperature=self.config.rollout.temperature,
                chunk=self.config.policy.head_chunk,
                slots=slots,
            )
            return scores.logprobs

        return self._jit("reference_logprobs", score, self.placement.rows, static_argnums=4)

    @functools.cached_property
    def sampler(self) -> BlockSampler:
        """Sampler of completions from the training distribution."""
        rollout = self.config.rollout
        return self._sampler("sample", rollout.group, rollout.max_tokens, rollout.temperature)

    @functools.cached_property
    def answerer(self) -> BlockSampler:
        """Sampler of one greedy completion per prompt."""
        return self._sampler("answer", 1, self.config.answer_tokens, 1.0, greedy=True)

    def _sampler(
        self, name: str, group: int, max_tokens: int, temperature: float, greedy: bool = False
    ) -> BlockSampler:
        # A plan has no tokenizer. The ids change no size.
        end_tokens = tuple(self.builder.tokenizer.end_ids) if self.builder else (0,)
        layout = decode_layout(self.placement, self.policy)
        sampler = Sampler(
            self.policy, group, max_tokens, end_tokens, temperature, greedy, layout=layout
        )
        return make_block_sampler(name, sampler, self.placement, self._jit)

    def _jit(
        self, name: str, function: Callable, out_shardings: Any, **jit_options: Any
    ) -> Watched:
        """Compile `function` with the mesh known: batches stay split (policy/batch_rows.py)."""

        @functools.wraps(function)
        def on_mesh(*arguments):
            with jax.sharding.use_abstract_mesh(self.placement.abstract_mesh):
                return function(*arguments)

        return Watched(name, on_mesh, out_shardings=out_shardings, **jit_options)

    def rollout_key(self, step: int, refill: int = 0) -> jax.Array:
        """Return the random key of the first rollout of a step, or of its refill `refill`."""
        return _rollout_key(self.config.seed, step, refill)

    def put_prompts(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Put this process's prompts on the mesh as part of the global batch."""
        windows = self._window_capacity(prompts)
        return self.placement.put_rows(
            stack_prompts(prompts, self.config.prompt.max_tokens, windows)
        )

    def put_positions(self, positions: Sequence[int]) -> jax.Array:
        """Put the global positions of this process's prompts on the mesh, for sampling keys."""
        return self.placement.put_rows(np.array(positions, np.int32))

    def _window_capacity(self, prompts: Sequence[Prompt]) -> int | None:
        """Return the bucket of the most windows of any prompt; None for a fixed frame."""
        if self.config.prompt.frame:
            return None
        return window_bucket(max_over_processes(max(len(prompt.patches) for prompt in prompts)))

    def completions(
        self, samples: Samples, example_ids: Sequence[int], version: int
    ) -> list[list[Completion]]:
        """Return this process's rows of `samples` as records."""
        return to_completions(
            self.placement.get_rows(samples), example_ids, self.builder.tokenizer.decode, version
        )


@jax.jit
def _rollout_key(seed, step, refill) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), refill)

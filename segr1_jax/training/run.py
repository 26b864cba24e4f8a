"""One training run: its directory, data, engine, state and bookkeeping.

loop.py decides what happens in a step.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from segr1_jax.config.checks import require_fixed_frame
from segr1_jax.config.portable import portable
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.pipeline import Sample, Skipped, ahead_of, batches
from segr1_jax.data.sources import check, limited, open_source
from segr1_jax.errors import Preempted
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.objective.update import TrainState
from segr1_jax.policy.params import ADAPTER, Params, WeightSpec
from segr1_jax.policy.sharding import TRAIN_RULES
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.reward.client import RewardClient
from segr1_jax.runtime.checkpoint import BestWeights, Checkpoints, abstract_state
from segr1_jax.runtime.compile_guard import CompileGuard
from segr1_jax.runtime.compiled_functions import announce_step
from segr1_jax.runtime.disk import require_disk
from segr1_jax.runtime.initial_weights import record_start, recorded_start
from segr1_jax.runtime.mesh import make_mesh, sum_over_processes
from segr1_jax.runtime.metrics_log import PhaseTimer
from segr1_jax.runtime.preemption import Preemption
from segr1_jax.runtime.processes import is_first, wait_for_all
from segr1_jax.runtime.progress import Progress
from segr1_jax.runtime.run_directory import (
    RunDir,
    best_root,
    checkpoint_root,
    claim_run_dir,
    make_run_dir,
    require_one_configuration,
)
from segr1_jax.runtime.run_lock import locked
from segr1_jax.runtime.step_trace import StepTrace
from segr1_jax.runtime.trackers.connect import require_credentials
from segr1_jax.training.evaluation import Evaluation
from segr1_jax.training.evaluation_files import was_evaluated, write_evaluation
from segr1_jax.training.held_out import evaluate_weights
from segr1_jax.training.make_engine import make_engine
from segr1_jax.training.prompt_capacity import fit_prompts
from segr1_jax.training.run_log import RunLog
from segr1_jax.training.sample_feed import SampleFeed
from segr1_jax.training.signal_watch import SignalWatch
from segr1_jax.training.tally import Tally
from segr1_jax.types import Example, Prompt

SHOWN = ("reward", "iou", "format", "loss", "kl")


class Run:
    """Everything around the steps of a run.

    Opening it checks files, creates or reopens the directory, and restores the newest step.
    """

    def __init__(self, config: RunConfig):
        require_fixed_frame(config)
        require_one_configuration(config)
        if is_first():
            require_credentials(config.log)
        self._open = ExitStack()
        self.config = config
        self.source, self.held_out = open_source(config.data), open_source(config.eval_data)
        check(self.source, answer_suffices=config.stage == "sft")
        check(self.held_out)
        self.start = recorded_start(config)
        builder = PromptBuilder.from_directory(self.start.base, config.prompt, self.start.texts)
        self.engine = make_engine(
            fit_prompts(config, builder, (self.source, self.held_out)),
            read_arch(Path(self.start.base)),
            make_mesh(config.mesh),
            builder,
        )
        self.held_out = limited(self.held_out, config.eval_limit)
        self.engine.check_rows()
        if is_first():
            require_disk(config, self.engine.state_shapes, jax.process_count())
        self.directory = self._open_directory()
        self.guard, self.timer = CompileGuard(), PhaseTimer()
        # Bad training samples are a metric, so checkpoints store them. Bad samples of the held-out
        # set and the baselines are not stored: reading those sets again finds them again.
        self.tally, self.unreadable = Tally(), Skipped()
        self._signal = SignalWatch()
        self._trace = self._open.enter_context(
            StepTrace(config.profile.steps, self.directory.profile, self.timer)
        )
        self._open.callback(self.guard.close)
        self.preemption = self._open.enter_context(Preemption())
        self._checkpoints = self._open.enter_context(
            Checkpoints(checkpoint_root(config), keep=config.keep)
        )
        self.frozen = self._load(self.engine.frozen_specs, self.engine.policy.dtype)
        self.state, position = self._restore()
        self.feed = SampleFeed(position, config.batch, self.tally, self.timer)
        self.first_step = self._saved = int(self.state.step)
        self._best = self._open.enter_context(
            BestWeights(best_root(config), keep=config.keep_best, step=self.first_step)
        )
        self._last_evaluation: tuple[int, Evaluation] | None = None
        self._progress: Progress | None = None
        self.log = self._open.enter_context(RunLog(self.directory, config, self.first_step))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception) -> None:
        self._open.__exit__(*exception)

    def initial_params(self) -> Params:
        """Return the weights that training began with, without adapters (float32)."""
        return self._load(
            {
                name: spec
                for name, spec in self.engine.trained_specs.items()
                if not name.endswith(ADAPTER)
            },
            np.float32,
        )

    @property
    def params(self) -> Params:
        """All weights of the current step, trained and frozen."""
        return self.frozen | self.state.params

    def steps(
        self,
        build: Callable[[Example], Prompt] | None = None,
        target: Callable[[Example], Any] | None = None,
    ) -> Iterator[tuple[int, list[Sample]]]:
        """Yield (step number from 1, this process's samples) until config.steps.

        The caller ends each step with `finish`. Prompts (`build`, by default the builder's) and
        targets are built ahead of time; a sample for which either raises UserError is skipped and
        counted.
        """
        config = self.config
        with Progress(config.stage, config.steps, self.first_step) as self._progress:
            if self.first_step == config.steps:
                return
            self.feed.start(
                batches(
                    self.source,
                    build or self.engine.builder.build,
                    target=target,
                    seed=config.seed,
                    start_position=self.feed.position,
                    batch=config.batch,
                    process=jax.process_index(),
                    processes=jax.process_count(),
                    ahead=ahead_of(config.loader, self.source, self.engine.builder.prompt_bytes),
                ),
                steps=config.steps - self.first_step,
            )
            # Time before the first step belongs to no step.
            self.timer.take(steps=1)
            for step in range(self.first_step + 1, config.steps + 1):
                announce_step(step)
                with self._trace(step):
                    yield step, self.feed.take()

    def finish(self, step: int, figures: Mapping[str, Any]) -> None:
        """Log a step and count its samples as used."""
        self.feed.finish()
        if is_first() and self.config.stage == "grpo":
            self._signal.look(figures)
        if self.log.is_due(step):
            times = self.timer.take(step - self.log.last_step)
            counts = {"position": self.feed.position, "skipped": self._skipped()}
            self.log.step(step, figures | times | counts)
        self._progress.update(
            step, {name: float(figures[name]) for name in SHOWN if name in figures}
        )

    def _skipped(self) -> int:
        """Bad samples of training so far, over all processes."""
        return int(sum_over_processes(np.array([len(self.tally.skipped)]))[0])

    def is_due(self, step: int, every: int) -> bool:
        """Return True every `every` steps and at the last step; 0 means only at the last."""
        return step == self.config.steps or (every > 0 and step % every == 0)

    def save(self, step: int) -> None:
        """Write a checkpoint of this step asynchronously, unless it is saved already."""
        if step == self._saved:
            return
        # Orbax compiles small programs that cut replicated arrays into what it writes.
        with self.timer("save"), self.guard.expecting():
            config, tallies = dataclasses.asdict(portable(self.config)), self.tally.gathered()
            self._checkpoints.save(self.state, self.feed.position, config, tallies)
        self._saved = step

    def wait_saved(self) -> None:
        """Return once every checkpoint is committed."""
        with self.guard.expecting():
            self._checkpoints.wait()

    def stop_if_asked(self, step: int) -> None:
        """Save `step` and raise Preempted if any process has received a signal to stop.

        All processes must call this at the same place, because they agree on it together.
        """
        if number := self.preemption.agreed():
            self.save(step)
            self.wait_saved()
            raise Preempted(step, number)

    def evaluate(self, step: int, client: RewardClient) -> Evaluation:
        """Evaluate the current weights on the held-out set; write and log the results.

        An evaluation that is already in metrics.jsonl is not logged again. A signal to stop ends it
        between two batches.
        """
        self.stop_if_asked(step)
        is_logged, panels = was_evaluated(self.directory, step), self.log.panels()
        with self.timer("eval"):
            weights = self.engine.rollout_weights(self.params)
            result = evaluate_weights(
                self.engine,
                weights,
                self.held_out,
                client,
                self.unreadable,
                between=lambda: self.stop_if_asked(step),
                watch=panels.add,
            )
        write_evaluation(self.directory, step, result)
        if not is_logged:
            finite = {k: v for k, v in result.figures.items() if not math.isnan(v)}
            self.log.evaluation(step, finite, panels.pictures)
        iou, valid = result.figures["iou"], result.figures["format"]
        print(f"step {step}: held-out IoU {iou:.4f}, format {valid:.3f}", file=sys.stderr)
        self._last_evaluation = (step, result)
        if step > 0:
            with self.timer("save"), self.guard.expecting():
                self._best.save(step, self.state.params, result.figures["iou"])
        return result

    @property
    def has_evaluated(self) -> bool:
        """True after this process's first evaluation."""
        return self._last_evaluation is not None

    def final_evaluation(self, client: RewardClient) -> Evaluation:
        """Return the evaluation of the last step.

        Compute it if this process has not, for example if a run resumes after its last update.
        """
        if self._last_evaluation is None or self._last_evaluation[0] != self.config.steps:
            return self.evaluate(self.config.steps, client)
        return self._last_evaluation[1]

    def _open_directory(self) -> RunDir:
        """Create, lock and claim the directory in the first process; the others wait for it."""
        directory = RunDir(Path(self.config.run_dir))
        if is_first():
            make_run_dir(self.config)
            self._open.enter_context(locked(directory.path))
            claim_run_dir(directory, self.config)
            record_start(directory, self.start)
        wait_for_all("run directory")
        return directory

    def _restore(self) -> tuple[TrainState, int]:
        engine = self.engine
        abstract = abstract_state(engine.state_shapes, engine.state_shardings)
        restored = self._checkpoints.restore(abstract, check=self.config.checkpoint_check)
        if restored is not None:
            self.tally.restore(restored.tallies)
            return restored.state, restored.position
        return engine.moments.init(self.initial_params() | engine.init_adapters()), 0

    def _load(self, specs: Mapping[str, WeightSpec], dtype: DTypeLike) -> Params:
        return self.start.load(
            self.engine.policy.base, self.engine.placement.weights(specs, TRAIN_RULES), dtype
        )

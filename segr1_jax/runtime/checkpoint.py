"""Checkpoints: one atomic Orbax step of four items.

params    trained weights: with the initial ones, enough for evaluation and export on any mesh
train     optimiser state, step count, updates skipped
position  the next position in the global data order, and what each process has counted (tally.py)
config    the configuration that made them

They are on a local disk or in an object store (`gs://bucket/run`): Orbax commits a step either way.
Each step holds checksums of its files (checksums.py), which a restore verifies.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies
from orbax.checkpoint.options import AsyncOptions

from segr1_jax.errors import UserError
from segr1_jax.objective.update import TrainState
from segr1_jax.policy.params import Params
from segr1_jax.runtime.checksums import damaged_files, require_undamaged, write_checksums

IOU = "iou"


@dataclass(frozen=True)
class Restored:
    """State restored from a checkpoint."""

    state: TrainState
    position: int
    tallies: list[dict[str, Any]]


class Checkpoints:
    """The `keep` newest checkpoints of one run.

    Saving is asynchronous; leaving the context waits for it. A save that fails (a full disk, a lost
    store) raises UserError at the next call: the steps before it are whole.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int):
        self._manager = _manager(directory, policies.LatestN(keep))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        position: int,
        config: dict[str, Any],
        tallies: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Write all items of this step; the step exists once all of them do."""
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            train=ocp.args.StandardSave(_all_but_params(state)),
            position=ocp.args.JsonSave({"position": position, "processes": [*tallies]}),
            config=ocp.args.JsonSave(config),
        )
        with _naming_last_good_step(self._manager):
            self._manager.save(int(state.step), args=items)

    def wait(self) -> None:
        """Return once every save so far is committed."""
        with _naming_last_good_step(self._manager):
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState, *, check: str = "stop") -> Restored | None:
        """Restore the newest checkpoint with the shardings of `abstract`; None in a new run.

        `check` is the run's checkpoint_check. Raises UserError where a step is damaged, unless an
        earlier one may stand in for it; the damaged steps are deleted then, for the run makes them
        again.
        """
        if self.latest is None:
            return None
        step = self.latest if check == "off" else self._undamaged(check)
        restored = self._restore(step, abstract)
        for later in [found for found in self._manager.all_steps() if found > step]:
            self._manager.delete(later)
        return restored

    def _undamaged(self, check: str) -> int:
        """Return the newest undamaged step, or the newest of all where `check` is stop."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step, before in zip(steps, [*steps[1:], None], strict=True):
            path = self._manager.directory / str(step)
            if check == "stop" or before is None:
                require_undamaged(path, remedy=_remedy(check, before))
                return step
            if not (bad := damaged_files(path)):
                return step
            if jax.process_index() == 0:
                lost = (
                    f"{path}: step {step} is damaged ({', '.join(bad[:3])}); trying step {before}"
                )
                print(lost, file=sys.stderr)
        raise AssertionError("a directory with a newest step holds steps")

    def _restore(self, step: int, abstract: TrainState) -> Restored:
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract.params),
            train=ocp.args.StandardRestore(_all_but_params(abstract)),
            position=ocp.args.JsonRestore(),
        )
        with _naming_damage(self._manager.directory / str(step)):
            found = self._manager.restore(step, args=items)
        record = found["position"]
        # Checkpoints of before have no tallies.
        return Restored(
            TrainState(found["params"], **found["train"]),
            record["position"],
            record.get("processes", []),
        )


class BestWeights:
    """Weights, without optimiser, of the `keep` steps of the highest held-out IoU.

    Steps after `step`, where the run resumes, are deleted: the run makes them again.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int, step: int):
        self._keep = keep
        if not keep:
            return
        best = policies.BestN(
            get_metric_fn=_held_out_iou, n=keep, keep_checkpoints_without_metrics=False
        )
        self._manager = _manager(directory, best, best_fn=_held_out_iou)
        for later in [found for found in self._manager.all_steps() if found > step]:
            self._manager.delete(later)

    def __enter__(self) -> "BestWeights":
        return self

    def __exit__(self, *_) -> None:
        if self._keep:
            self._manager.close()

    def save(self, step: int, params: Params, iou: float) -> None:
        """Write the weights of this step asynchronously if its IoU is among the highest."""
        if not self._keep:
            return
        # The metrics of a step can be read once it is committed.
        with _naming_last_good_step(self._manager):
            self._manager.wait_until_finished()
        if step in self._manager.all_steps():
            return
        known = [self._manager.metrics(found)[IOU] for found in self._manager.all_steps()]
        if len(known) == self._keep and iou <= min(known):
            return
        items = ocp.args.Composite(params=ocp.args.StandardSave(params))
        with _naming_last_good_step(self._manager):
            self._manager.save(step, args=items, metrics={IOU: iou})


def _manager(directory: epath.PathLike, policy: Any, **options: Any) -> ocp.CheckpointManager:
    """Open a checkpoint manager; `policy`, one of Orbax's, selects the steps that are kept."""
    directory = epath.Path(directory).resolve()
    # Orbax calls it when all items of a step are there and before it commits the step.
    finish = AsyncOptions(post_finalization_callback=lambda: _add_checksums(directory))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        create=True,
        enable_async_checkpointing=True,
        async_options=finish,
        **options,
    )
    return ocp.CheckpointManager(directory, options=options)


def _add_checksums(directory: epath.Path) -> None:
    """Write the checksums of the uncommitted step under `directory`."""
    if jax.process_index() == 0:
        for partial in ocp.utils.tmp_checkpoints(directory):
            write_checksums(partial.get())


def _remedy(check: str, before: int | None) -> str:
    if before is None:
        return "copy the checkpoint again; there is no step before it"
    return f"copy it again, or go on from step {before} with checkpoint_check=step_before"


@contextlib.contextmanager
def _naming_last_good_step(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        got = f"{type(error).__name__}: {str(error)[:500]}"
        remedy = f"look at the space and the rights there; {last_good_step(manager.directory)}"
        raise UserError(
            str(manager.directory), expected="a checkpoint to be written", got=got, remedy=remedy
        ) from error


def _all_but_params(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name != "params"}


def _held_out_iou(metrics: dict[str, float]) -> float:
    return metrics[IOU]


def latest_step(directory: epath.PathLike) -> int | None:
    """Return the newest finished checkpoint under `directory`; None where there is none."""
    directory = epath.Path(directory)
    return max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None


def last_good_step(directory: epath.PathLike) -> str:
    """Return the part of a message that names the step from which the same command continues."""
    step = latest_step(directory)
    if step is None:
        return "no step is saved yet"
    return f"step {step} is whole and the same command goes on from it"


def newest_step(directory: epath.PathLike) -> int:
    """Return the newest finished checkpoint under `directory`; raise UserError without one."""
    step = latest_step(directory)
    if step is None:
        raise UserError(
            str(directory),
            expected="a finished checkpoint",
            got="none",
            remedy="let the run reach its first save",
        )
    return step


def restore_params(
    directory: epath.PathLike, step: int, shardings: Mapping[str, Sharding] | Sharding
) -> Params:
    """Restore float32 weights of one checkpoint under `directory`.

    These are the ones that `shardings` names and the checkpoint holds, or all with one sharding.
    """
    directory = epath.Path(directory).resolve()
    if step not in (steps := ocp.utils.checkpoint_steps(directory)):
        remedy = "raise `keep` of that run, or start a new run from what it has"
        raise UserError(
            str(directory),
            expected=f"the checkpoint of step {step}",
            got=f"steps {sorted(steps)}",
            remedy=remedy,
        )
    item = directory / str(step) / "params"
    require_undamaged(item.parent, item.name, remedy="copy it again, or name another step")
    handler = ocp.PyTreeCheckpointHandler()
    with _naming_damage(item.parent):
        held = handler.metadata(item).tree
    if isinstance(shardings, Sharding):
        shardings = dict.fromkeys(held, shardings)
    wanted = {
        name: jax.ShapeDtypeStruct(held[name].shape, np.float32, sharding=sharding)
        for name, sharding in shardings.items()
        if name in held
    }
    if not wanted:
        return {}
    arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
    with _naming_damage(item.parent), ocp.Checkpointer(handler) as checkpointer:
        return checkpointer.restore(
            item,
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True),
        )


@contextlib.contextmanager
def _naming_damage(step: epath.Path) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError:  # the device's fault, such as its memory
        raise
    except Exception as error:  # Orbax hands on what its storage says as a bare Exception
        got, remedy = (
            f"{type(error).__name__}: {str(error)[:300]}",
            "copy it again, or delete it to use the one before",
        )
        raise UserError(
            str(step), expected="a whole checkpoint that fits", got=got, remedy=remedy
        ) from error


def abstract_state(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Return ShapeDtypeStructs that carry their shardings."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )

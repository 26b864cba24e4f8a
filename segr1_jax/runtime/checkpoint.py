"""Checkpoints: one atomic Orbax step of four items.

params    the trained weights; with the initial weights of the run they are sufficient for
          evaluation and export, on any mesh
train     optimizer state, step count, number of skipped updates
position  the next position in the global data order, and the tallies of each process (tally.py)
config    the configuration of the run

Checkpoints are stored on a local disk or in an object store (`gs://bucket/run`); Orbax commits a
step on either. Each step has checksums of its files (checksums.py), which a restore verifies.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from segr1_jax.errors import UserError
from segr1_jax.objective.update import TrainState
from segr1_jax.policy.params import Params
from segr1_jax.runtime.checksums import damaged_files, require_undamaged
from segr1_jax.runtime.orbax_steps import (
    explaining_failed_restore,
    explaining_failed_save,
    latest_step,
    step_manager,
)

IOU = "iou"


@dataclass(frozen=True)
class Restored:
    """State restored from a checkpoint.

    `position` is the next position in the global data order; `tallies` has one entry per process.
    """

    state: TrainState
    position: int
    tallies: list[dict[str, Any]]


class Checkpoints:
    """The `keep` newest checkpoints of one run.

    Saving is asynchronous; leaving the context waits for it. A save that fails (full disk, lost
    store) raises UserError at the next call; the steps before it are complete.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int):
        self._manager = step_manager(directory, policies.LatestN(keep))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        position: int,
        config: dict[str, Any],
        tallies: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Save all items of this step. The step exists only once all of them are written."""
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            train=ocp.args.StandardSave(_all_but_params(state)),
            position=ocp.args.JsonSave({"position": position, "processes": [*tallies]}),
            config=ocp.args.JsonSave(config),
        )
        with explaining_failed_save(self._manager):
            self._manager.save(int(state.step), args=items)

    def wait(self) -> None:
        """Return once all steps saved so far are committed."""
        with explaining_failed_save(self._manager):
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState, *, check: str = "stop") -> Restored | None:
        """Restore the newest checkpoint, or return None in a new run.

        Args:
            abstract: ShapeDtypeStructs with the shardings of the state.
            check: the run's checkpoint_check. With `step_before`, an earlier step replaces a
                damaged one; later steps are then deleted, since the run computes them again.

        Raises:
            UserError: a step is damaged and no earlier one may replace it.
        """
        if self.latest is None:
            return None
        step = self.latest if check == "off" else self._undamaged(check)
        restored = self._restore(step, abstract)
        for later in [each for each in self._manager.all_steps() if each > step]:
            self._manager.delete(later)
        return restored

    def _undamaged(self, check: str) -> int:
        """Return the newest undamaged step; with `stop`, the newest of all must be undamaged."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step, before in zip(steps, [*steps[1:], None], strict=True):
            path = self._manager.directory / str(step)
            if check == "stop" or before is None:
                require_undamaged(path, remedy=_remedy(check, before))
                return step
            if not (damaged := damaged_files(path)):
                return step
            if jax.process_index() == 0:
                names = ", ".join(damaged[:3])
                print(
                    f"{path}: step {step} is damaged ({names}); trying step {before}",
                    file=sys.stderr,
                )
        raise AssertionError("a directory with a newest step has steps")

    def _restore(self, step: int, abstract: TrainState) -> Restored:
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract.params),
            train=ocp.args.StandardRestore(_all_but_params(abstract)),
            position=ocp.args.JsonRestore(),
        )
        with explaining_failed_restore(self._manager.directory / str(step)):
            restored = self._manager.restore(step, args=items)
        record = restored["position"]
        # Checkpoints of earlier versions have no tallies.
        return Restored(
            state=TrainState(restored["params"], **restored["train"]),
            position=record["position"],
            tallies=record.get("processes", []),
        )


class BestWeights:
    """Weights, without optimizer state, of the `keep` steps of the highest held-out IoU.

    Steps after `step`, from which the run resumes, are deleted: the run computes them again.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int, step: int):
        self._keep = keep
        if not keep:
            return
        best = policies.BestN(
            get_metric_fn=_held_out_iou, n=keep, keep_checkpoints_without_metrics=False
        )
        self._manager = step_manager(directory, best, best_fn=_held_out_iou)
        for later in [each for each in self._manager.all_steps() if each > step]:
            self._manager.delete(later)

    def __enter__(self) -> "BestWeights":
        return self

    def __exit__(self, *_) -> None:
        if self._keep:
            self._manager.close()

    def save(self, step: int, params: Params, iou: float) -> None:
        """Save the weights of this step, asynchronously, if its IoU is among the highest."""
        if not self._keep:
            return
        # The metrics of a step can be read only once the step is committed.
        with explaining_failed_save(self._manager):
            self._manager.wait_until_finished()
        if step in self._manager.all_steps():
            return
        kept = [self._manager.metrics(each)[IOU] for each in self._manager.all_steps()]
        if len(kept) == self._keep and iou <= min(kept):
            return
        items = ocp.args.Composite(params=ocp.args.StandardSave(params))
        with explaining_failed_save(self._manager):
            self._manager.save(step, args=items, metrics={IOU: iou})


def _remedy(check: str, before: int | None) -> str:
    if before is None:
        return "copy the checkpoint again; there is no step before it"
    return f"copy it again, or resume from step {before} with checkpoint_check=step_before"


def _all_but_params(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name != "params"}


def _held_out_iou(metrics: dict[str, float]) -> float:
    return metrics[IOU]


def newest_step(directory: epath.PathLike) -> int:
    """Return the newest finished checkpoint under `directory`, or raise UserError."""
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
    """Restore weights (float32) of one checkpoint under `directory`.

    With a mapping, the result has the weights that both `shardings` and the checkpoint name. With a
    single sharding, it has all weights of the checkpoint.
    """
    directory = epath.Path(directory).resolve()
    if step not in (steps := ocp.utils.checkpoint_steps(directory)):
        raise UserError(
            str(directory),
            expected=f"the checkpoint of step {step}",
            got=f"steps {sorted(steps)}",
            remedy="increase `keep` for that run, or start a new run from one of these steps",
        )
    item = directory / str(step) / "params"
    require_undamaged(item.parent, item.name, remedy="copy it again, or name another step")
    handler = ocp.PyTreeCheckpointHandler()
    with explaining_failed_restore(item.parent):
        stored = handler.metadata(item).tree
    if isinstance(shardings, Sharding):
        shardings = dict.fromkeys(stored, shardings)
    wanted = {
        name: jax.ShapeDtypeStruct(stored[name].shape, np.float32, sharding=sharding)
        for name, sharding in shardings.items()
        if name in stored
    }
    if not wanted:
        return {}
    arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
    with explaining_failed_restore(item.parent), ocp.Checkpointer(handler) as checkpointer:
        return checkpointer.restore(
            item,
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True),
        )


def abstract_state(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Return the ShapeDtypeStructs of `shapes` with `shardings`."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )

"""The runs behind initial weights: the one that made them, the one that it started from, ..."""

from collections.abc import Sequence
from pathlib import Path

from segr1_jax.common.hub_ids import cached_id
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.initial_weights import Start, resolve_start
from segr1_jax.runtime.run_directory import RunDir


def run_of(start: Start) -> Path | None:
    """Return the directory of the run whose checkpoint `start` is.

    None for a Hugging Face directory, and for checkpoints outside their run (checkpoint_dir).
    """
    if start.checkpoints is None or "://" in start.checkpoints:
        return None
    run = Path(start.checkpoints).parent
    return run if RunDir(run).config.is_file() else None


def policy_name(start: Start) -> str:
    """Return a name for weights, without the folders that they are in.

    Examples: "run grpo, step 140 (from tiny)", "export in grpo", "Qwen/Qwen2.5-VL-3B-Instruct".
    """
    base = Path(start.base).absolute()
    # A folder in the cache of the Hub has a commit for a name.
    repository = cached_id(start.base)
    name = repository.repo if repository else base.name
    if start.checkpoints is None:
        is_export = RunDir(base.parent).start.is_file()
        return f"{name} in {base.parent.name}" if is_export else name
    run = run_of(start)
    # Checkpoints in an object store have no run beside them.
    weights = f"run {run.absolute().name}" if run else start.checkpoints
    return f"{weights}, step {start.step} (from {name})"


def runs_behind(start: Start) -> list[RunConfig] | None:
    """Return the configurations of the runs that made these weights, the last one first.

    An export inside its run directory belongs to that run. None where a run was deleted, or is one
    that this version cannot read.
    """
    try:
        return _runs_behind(start)
    except UserError:
        return None


def _runs_behind(start: Start) -> list[RunConfig] | None:
    if start.checkpoints is None:
        around = RunDir(Path(start.base).parent)
        return _runs_behind(resolve_start(around.path)) if around.start.is_file() else []
    run = run_of(start)
    below = _runs_behind(start.below) if run else None
    return None if below is None else [load_config(run), *below]


def only_synthetic(runs: Sequence[RunConfig]) -> bool:
    """Return True where there are runs and all of them trained on synthetic pictures."""
    return bool(runs) and all(run.data.kind == "synthetic" for run in runs)

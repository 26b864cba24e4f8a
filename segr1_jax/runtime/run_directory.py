"""The run directory, which contains everything that a run writes.

config.yaml    the whole configuration; repositories on the Hub at their commits
config.hash    its hash
start.json     the initial weights
lock           held while a process works in the directory
checkpoints/   Orbax steps (or in checkpoint_dir)
best/          weights of the best steps (keep_best)
metrics.jsonl  one line per logged step
completions.jsonl  completions of GRPO with their rewards (log.completions)
tb/            the same as metrics.jsonl for TensorBoard, and pictures of held-out samples
wandb/         what wandb keeps (log.to)
trackers/      the identity of the run in wandb and trackio, and the last row that each was given
profile/       XProf traces
eval/          one JSONL of rows per evaluation, with the answers
samples/       masks beside the ground truth
incidents/     quarantined requests, stacks at missed deadlines, batches of skipped updates
export/        the Hugging Face directory
report.md      the final table
report.html    the verdict, samples before and after, the table, curves
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import jax

from segr1_jax.common.files import partial_name, write_atomically
from segr1_jax.config.loading import dump_config, load_config
from segr1_jax.config.portable import portable
from segr1_jax.config.resume_rules import check_resumable, config_hash, deciding, rounding_changes
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.orbax_steps import latest_step
from segr1_jax.runtime.processes import text_of_first


@dataclass(frozen=True)
class RunDir:
    """Paths in one run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def hash(self) -> Path:
        return self.path / "config.hash"

    @property
    def start(self) -> Path:
        return self.path / "start.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def completions(self) -> Path:
        return self.path / "completions.jsonl"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def eval(self) -> Path:
        return self.path / "eval"

    @property
    def incidents(self) -> Path:
        return self.path / "incidents"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    @property
    def page(self) -> Path:
        return self.path / "report.html"


def checkpoint_root(config: RunConfig) -> str:
    """Return the folder or URL of the run's checkpoints."""
    return config.checkpoint_dir or str(RunDir(Path(config.run_dir)).checkpoints)


def best_root(config: RunConfig) -> str:
    """Return the folder or URL of the weights of the best steps."""
    if config.checkpoint_dir:
        return f"{config.checkpoint_dir}/best"
    return str(RunDir(Path(config.run_dir)).best)


def incidents_of(config: RunConfig) -> Path:
    """Return the folder of a run's incidents. The run directory need not exist."""
    return RunDir(Path(config.run_dir)).incidents


def make_run_dir(config: RunConfig) -> RunDir:
    """Create `config.run_dir` unless it is a run directory already.

    One rename creates it complete (config, hash, folders), so a kill never leaves a partial one.

    Raises:
        UserError: the directory has files but is not a run directory.
    """
    run = RunDir(Path(config.run_dir))
    if not _has_content(run.path):
        _create(run.path, config)
    if not run.config.is_file():
        raise UserError(
            str(run.path),
            expected="a run directory or an empty one",
            got="files without config.yaml",
            remedy="choose another run_dir",
        )
    return run


def require_one_configuration(config: RunConfig) -> None:
    """Raise UserError in a process whose configuration is not that of the first process.

    All processes call it. Files of the user, such as own terms of the reward, may differ between
    hosts.
    """
    own = deciding(config)
    first = json.loads(text_of_first(lambda: json.dumps(own)))
    if differing := [key for key in first | own if first.get(key) != own.get(key)]:
        key = differing[0]
        raise UserError(
            f"configuration of process {jax.process_index()}",
            expected=f"that of the first process, {key}={first.get(key)!r}",
            got=f"{own.get(key)!r}",
            remedy="start all processes with the same files and the same command",
        )


def claim_run_dir(run: RunDir, config: RunConfig) -> None:
    """Write `config` to this run directory. Call it with the lock held (runtime/run_lock.py).

    Any configuration may replace that of a run that has not computed anything. The changes that a
    resumed run may make are in config/resume_rules.py; a change that ends bitwise equality is
    logged.

    Raises:
        UserError: the run has another configuration, or its checkpoints are in another place.
    """
    if has_begun(run):
        old = load_config(run.config)
        check_resumable(old, config, run.path, latest_step(checkpoint_root(config)))
        _check_moved_checkpoints(old, config)
        if rounded := rounding_changes(old, config):
            print(f"resumed with {'; '.join(rounded)}: equal up to rounding", file=sys.stderr)
        if old.steps != config.steps:
            # Both reports describe the end of a run that now continues.
            run.report.unlink(missing_ok=True)
            run.page.unlink(missing_ok=True)
    write_atomically(run.config, dump_config(portable(config)))
    write_atomically(run.hash, config_hash(config) + "\n")


def _check_moved_checkpoints(old: RunConfig, new: RunConfig) -> None:
    """Raise UserError if checkpoint_dir changed but the checkpoints were not moved.

    Otherwise the run would start again at step 0.
    """
    before, after = checkpoint_root(old), checkpoint_root(new)
    step = latest_step(before) if before != after else None
    if step is not None and latest_step(after) is None:
        raise UserError(
            "checkpoint_dir",
            expected=f"the checkpoints of this run ({before} has step {step})",
            got=f"none in {after}",
            remedy=f"move them there, or set checkpoint_dir={old.checkpoint_dir or repr('')}",
        )


def has_begun(run: RunDir) -> bool:
    """Return True once the run has logged or saved anything."""
    has_metrics = run.metrics.is_file() and run.metrics.stat().st_size > 0
    return any(run.checkpoints.iterdir()) or has_metrics


def _has_content(path: Path) -> bool:
    if path.exists() and not path.is_dir():
        raise UserError(
            "run_dir",
            expected="a directory",
            got=f"{path} (a file)",
            remedy="choose another run_dir",
        )
    return path.is_dir() and any(path.iterdir())


def _create(path: Path, config: RunConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = RunDir(partial_name(path))
    draft.path.mkdir()
    try:
        write_atomically(draft.config, dump_config(portable(config)))
        write_atomically(draft.hash, config_hash(config) + "\n")
        for folder in (draft.tensorboard, draft.checkpoints, draft.eval, draft.samples):
            folder.mkdir()
        os.rename(draft.path, path)
    except BaseException:
        shutil.rmtree(draft.path)
        raise

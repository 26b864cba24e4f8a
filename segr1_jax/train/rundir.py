"""The run directory: everything a run writes, in one documented place.

config.yaml     the whole configuration          checkpoints/  Orbax steps (or in checkpoint_dir)
config.hash     its hash                         eval/         one JSONL of rows per evaluation
start.json      the weights it began from
metrics.jsonl   one line per logged step         samples/      masks beside ground truth
tb/             the same for TensorBoard         export/       the Hugging Face directory
profile/        XProf traces
report.md       the closing table                incidents/    fatal requests, stacks at missed deadlines, skipped batches
report.html     table, curves and samples
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from segr1_jax.errors import UserError
from segr1_jax.files import write_atomically
from segr1_jax.train.config import RunConfig
from segr1_jax.train.load_config import config_hash, differing_fields, dump_config, load_config


@dataclass(frozen=True)
class RunDir:
    """Paths inside one run directory."""

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
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

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
    """Where the run of `config` keeps its checkpoints: a folder, or a URL."""
    return config.checkpoint_dir or str(RunDir(Path(config.run_dir)).checkpoints)


def open_run_dir(config: RunConfig) -> RunDir:
    """Create `config.run_dir`, or reopen it when the same configuration made it.

    The directory appears complete (config, hash, folders) by one rename, so a kill never leaves a half-made one. With several
    processes the first alone calls this.

    Raises:
        UserError: the directory holds a run of another configuration (names the fields), or something that is no run.
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
    if not has_begun(
        run
    ):  # nothing was computed yet: a configuration that could not start does not bind the next one
        write_atomically(run.config, dump_config(config))
        write_atomically(run.hash, config_hash(config) + "\n")
    changed = differing_fields(load_config(run.config), config)
    if changed:
        raise UserError(
            str(run.path),
            expected="the configuration that made this run",
            got="; ".join(changed),
            remedy="choose another run_dir, or undo the change",
        )
    return run


def has_begun(run: RunDir) -> bool:
    """True once the run has logged or saved anything."""
    return any(run.checkpoints.iterdir()) or (
        run.metrics.is_file() and run.metrics.stat().st_size > 0
    )


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
    draft = RunDir(Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")))
    try:
        draft.path.chmod(0o755)
        write_atomically(draft.config, dump_config(config))
        write_atomically(draft.hash, config_hash(config) + "\n")
        for folder in (draft.tensorboard, draft.checkpoints, draft.eval, draft.samples):
            folder.mkdir()
        os.rename(draft.path, path)
    except BaseException:
        shutil.rmtree(draft.path)
        raise

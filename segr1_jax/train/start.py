"""Where a run starts: a Hugging Face directory, or a checkpoint of another run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from jax.sharding import Sharding

from segr1_jax.errors import UserError
from segr1_jax.files import write_atomically
from segr1_jax.hf.load import load_params
from segr1_jax.policy.params import Params, Policy
from segr1_jax.train.checkpoint import newest_step, restore_params
from segr1_jax.train.config import RunConfig
from segr1_jax.train.load_config import load_config
from segr1_jax.train.rundir import RunDir, has_begun


@dataclasses.dataclass(frozen=True)
class Start:
    """`base` is the Hugging Face directory with config.json, tokenizer and processor; a checkpoint step of a run overrides its weights."""

    base: str
    checkpoints: str | None = None
    step: int | None = None

    def load(self, policy: Policy, shardings: dict[str, Sharding]) -> Params:
        """The float32 weights, placed."""
        if self.checkpoints is None:
            return load_params(Path(self.base), policy, shardings, np.float32)
        return restore_params(Path(self.checkpoints), self.step, policy, shardings)


def resolve_start(path: str | Path) -> Start:
    """Follow a run directory back to the Hugging Face directory it began from, and fix its newest checkpoint.

    Raises:
        UserError: `path` is neither, or holds no finished checkpoint.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return Start(str(path))
    if (path / "config.yaml").is_file():
        checkpoints = RunDir(path).checkpoints
        return Start(resolve_start(load_config(path).policy.path).base, str(checkpoints), newest_step(checkpoints))
    got = "neither config.json nor config.yaml in it" if path.is_dir() else "no such directory"
    raise UserError(str(path), expected="a Hugging Face directory or a run directory", got=got, remedy="correct policy.path (or --source)")


def recorded_start(config: RunConfig) -> Start:
    """The start a run recorded when it began: the run it started from may have gone on since, and the reference policy must not move."""
    directory = RunDir(Path(config.run_dir))
    begun = directory.start.is_file() and has_begun(directory)
    return Start(**json.loads(directory.start.read_text())) if begun else resolve_start(config.policy.path)


def record_start(directory: RunDir, start: Start) -> None:
    """Write the start into the run directory."""
    write_atomically(directory.start, json.dumps(dataclasses.asdict(start)) + "\n")

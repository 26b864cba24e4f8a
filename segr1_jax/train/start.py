"""Where a run starts: a Hugging Face directory, or the newest checkpoint of another run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Sharding

from segr1_jax.errors import UserError
from segr1_jax.hf.load import load_params
from segr1_jax.policy.params import Params, Policy
from segr1_jax.train.checkpoint import restore_params
from segr1_jax.train.load_config import load_config
from segr1_jax.train.rundir import RunDir


@dataclass(frozen=True)
class Start:
    """`base` is the Hugging Face directory with config.json, tokenizer and processor; `checkpoints` overrides its weights."""

    base: Path
    checkpoints: Path | None

    def load(self, policy: Policy, shardings: dict[str, Sharding]) -> Params:
        """The float32 weights, placed."""
        if self.checkpoints is None:
            return load_params(self.base, policy, shardings, np.float32)
        return restore_params(self.checkpoints, policy, shardings)


def resolve_start(path: str | Path) -> Start:
    """Follow a run directory back to the Hugging Face directory it began from.

    Raises:
        UserError: `path` is neither.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return Start(path, None)
    if (path / "config.yaml").is_file():
        return Start(resolve_start(load_config(path).policy.path).base, RunDir(path).checkpoints)
    got = "neither config.json nor config.yaml in it" if path.is_dir() else "no such directory"
    raise UserError(str(path), expected="a Hugging Face directory or a run directory", got=got, remedy="correct policy.path (or --source)")

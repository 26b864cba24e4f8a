"""Initial weights of a run: a Hugging Face directory, or a checkpoint of another run.

A run with a frozen tower or adapters saves only what it trains; the remainder is where it began
itself, so one start may build on another.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from segr1_jax.common.files import write_atomically
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.hf.load_weights import load_params
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.params import ADAPTER, Params, Policy
from segr1_jax.runtime.checkpoint import newest_step, restore_params
from segr1_jax.runtime.processes import text_of_first
from segr1_jax.runtime.run_directory import RunDir, best_root, checkpoint_root, has_begun

PLACES = ("base", "checkpoints")  # fields of a Start that hold a path


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes:
        base: the Hugging Face directory at the bottom, with config.json, tokenizer and processor.
        checkpoints, step: a checkpoint of a run; its weights go before those below.
        below: where that run started.
        lora: the adapters of that run, where it trained adapters.
    """

    base: str
    checkpoints: str | None = None
    step: int = 0
    below: "Start | None" = None
    lora: LoraConfig | None = None

    def load(self, policy: Policy, shardings: dict[str, NamedSharding], dtype: DTypeLike) -> Params:
        """Load the weights that `shardings` names, adapters merged.

        `policy` is the policy without adapters.
        """
        if self.checkpoints is None:
            return load_params(Path(self.base), policy, shardings, dtype)
        if self.lora:
            return self._load_merged(policy, shardings, dtype)
        held = restore_params(Path(self.checkpoints), self.step, shardings)
        missing = {name: sharding for name, sharding in shardings.items() if name not in held}
        rest = self.below.load(policy, missing, dtype) if missing else {}
        return {
            name: rest[name] if name in missing else held[name].astype(dtype) for name in shardings
        }

    def adapters(self, mesh: jax.sharding.Mesh) -> Params:
        """Load the adapters alone (float32), replicated on every device."""
        return restore_params(
            Path(self.checkpoints), self.step, NamedSharding(mesh, PartitionSpec())
        )

    def _load_merged(
        self, policy: Policy, shardings: dict[str, NamedSharding], dtype: DTypeLike
    ) -> Params:
        weights = self.below.load(policy, shardings, np.float32)
        adapters = self.adapters(next(iter(shardings.values())).mesh) if shardings else {}
        for name in [
            name.removesuffix(ADAPTER[0]) for name in adapters if name.endswith(ADAPTER[0])
        ]:
            if (kernel := f"{name}.kernel") in weights:
                merge = jax.jit(
                    _merge,
                    static_argnames="scale",
                    donate_argnums=0,
                    out_shardings=shardings[kernel],
                )
                weights[kernel] = merge(
                    weights[kernel],
                    *(adapters[name + half] for half in ADAPTER),
                    scale=self.lora.scale,
                )
        return {name: weight.astype(dtype) for name, weight in weights.items()}


def _merge(kernel, lora_a, lora_b, *, scale: float):
    return kernel + scale * (lora_a @ lora_b)


def resolve_start(path: str | Path) -> Start:
    """Follow a run, or one checkpoint of it, back to the Hugging Face directory it began from.

    A checkpoint is RUN/checkpoints/STEP or, of those with the highest IoU, RUN/best/STEP. A run
    directory stands for its newest checkpoint at this moment.

    Raises:
        UserError: `path` is none of these, or holds no finished checkpoint.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return Start(str(path))
    if (path / "config.yaml").is_file():
        return _from_run(path)
    if path.name.isdigit() and (path.parent.parent / "config.yaml").is_file():
        run = path.parent.parent
        best = path.parent == RunDir(run).best
        return _from_run(run, step=int(path.name), best=best)
    got = "neither config.json nor config.yaml in it" if path.is_dir() else "no such directory"
    raise UserError(
        str(path),
        expected="a Hugging Face directory, a run directory or a checkpoint in one",
        got=got,
        remedy="correct policy.path (or --source)",
    )


def _from_run(path: Path, step: int | None = None, *, best: bool = False) -> Start:
    config = load_config(path)
    checkpoints = best_root(config) if best else checkpoint_root(config)
    lora = config.policy.lora
    below = _recorded(RunDir(path))
    return Start(
        below.base,
        checkpoints,
        newest_step(checkpoints) if step is None else step,
        below,
        lora if lora.rank else None,
    )


def recorded_start(config: RunConfig) -> Start:
    """Return the start of a run, the same in every process.

    A run that has begun recorded it: the run it started from may have gone on since, and the
    reference policy must not move. For a new run the first process alone resolves policy.path,
    for a live run saves steps between the looks of two processes.
    """
    directory = RunDir(Path(config.run_dir))

    def find() -> str:
        begun = directory.start.is_file() and has_begun(directory)
        start = _recorded(directory) if begun else resolve_start(config.policy.path)
        return json.dumps(dataclasses.asdict(start))

    return _from_json(json.loads(text_of_first(find)), directory.path)


def record_start(directory: RunDir, start: Start) -> None:
    """Write the start and the working directory of its relative paths into the run directory."""
    record = {"working_directory": os.getcwd()} | _to_json(start, directory.path)
    write_atomically(directory.start, json.dumps(record) + "\n")


def _recorded(directory: RunDir) -> Start:
    try:
        return _from_json(json.loads(directory.start.read_text()), directory.path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        remedy = "copy a run directory whole; this file says which weights it began from"
        raise UserError(
            str(directory.start), expected="where the run began", got=str(error), remedy=remedy
        ) from error


def _to_json(start: Start, run: Path) -> dict[str, Any]:
    """Return the start with absolute paths, and with paths relative to the run directory."""
    record = dataclasses.asdict(start)
    for name in PLACES:
        if record[name] is not None and "://" not in record[name]:
            path = os.path.abspath(record[name])
            record[name] = {"path": path, "from_run": os.path.relpath(path, run)}
    return record | {"below": start.below and _to_json(start.below, run)}


def _from_json(record: dict[str, Any], run: Path) -> Start:
    names = {field.name for field in dataclasses.fields(Start)}
    fields = {name: value for name, value in record.items() if name in names}
    for name in PLACES:
        if isinstance(fields.get(name), dict):
            fields[name] = _found(fields[name], run)
    below, lora = fields.get("below"), fields.get("lora")
    return Start(
        **fields | {"below": below and _from_json(below, run), "lora": lora and LoraConfig(**lora)}
    )


def _found(place: dict[str, str], run: Path) -> str:
    """Return the current path: the recorded one, or the one that moved with the run directory."""
    moved = run / place["from_run"]
    return str(moved) if moved.exists() and not Path(place["path"]).exists() else place["path"]

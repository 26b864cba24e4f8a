"""Initial weights of a run: a Hugging Face directory, or a checkpoint of another run.

A run with a frozen tower or with adapters saves only the weights that it trains. The others come
from its own start, so a start may refer to another one.
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
from segr1_jax.common.hub_ids import cached_id
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.hf.hub import local_policy
from segr1_jax.hf.load_weights import load_params
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.params import ADAPTER, Params, Policy
from segr1_jax.runtime.checkpoint import newest_step, restore_params
from segr1_jax.runtime.processes import text_of_first
from segr1_jax.runtime.run_directory import RunDir, best_root, checkpoint_root, has_begun

PLACES = ("base", "checkpoints")  # fields of a Start that hold a path


@dataclasses.dataclass(frozen=True)
class Start:
    """Initial weights of a run.

    Attributes:
        base: Hugging Face directory of the first run, with config.json, tokenizer and processor.
        checkpoints: directory of a run's checkpoints, or None to start from `base`.
        step: the step in `checkpoints`; its weights take precedence over those of `below`.
        below: the start of that run.
        lora: configuration of the adapters that the run trained, or None.
        texts: texts of the prompts that the run was trained on, empty for those of `base`.
    """

    base: str
    checkpoints: str | None = None
    step: int = 0
    below: "Start | None" = None
    lora: LoraConfig | None = None
    texts: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def load(self, policy: Policy, shardings: dict[str, NamedSharding], dtype: DTypeLike) -> Params:
        """Load the weights that `shardings` names, with adapters merged.

        `policy` is the policy without adapters.
        """
        if self.checkpoints is None:
            return load_params(Path(self.base), policy, shardings, dtype)
        if self.lora:
            return self._load_merged(policy, shardings, dtype)
        trained = restore_params(Path(self.checkpoints), self.step, shardings)
        missing = {name: sharding for name, sharding in shardings.items() if name not in trained}
        others = self.below.load(policy, missing, dtype) if missing else {}
        return {
            name: others[name] if name in missing else trained[name].astype(dtype)
            for name in shardings
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
    """Return the start that a Hugging Face directory, a run or a checkpoint of it defines.

    A checkpoint is RUN/checkpoints/STEP or, for those with the highest IoU, RUN/best/STEP. A run
    directory stands for its newest checkpoint at the time of the call.

    Raises:
        UserError: `path` is none of these, or has no finished checkpoint.
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
    got = "neither config.json nor config.yaml" if path.is_dir() else "no such directory"
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
        base=below.base,
        checkpoints=checkpoints,
        step=newest_step(checkpoints) if step is None else step,
        below=below,
        lora=lora if lora.rank else None,
        texts=config.prompt.texts or below.texts,
    )


def recorded_start(config: RunConfig) -> Start:
    """Return the start of a run, the same in every process.

    A run that has begun reads its recorded start: the run that it started from may have continued
    since, and the reference policy must not change. For a new run, only the first process resolves
    policy.path, because a running source may save another step before the next process resolves it.
    """
    directory = RunDir(Path(config.run_dir))

    def resolve() -> str:
        begun = directory.start.is_file() and has_begun(directory)
        start = _recorded(directory) if begun else resolve_start(config.policy.path)
        return json.dumps(_to_json(start, directory.path))

    return _from_json(json.loads(text_of_first(resolve)), directory.path)


def record_start(directory: RunDir, start: Start) -> None:
    """Write the start to the run directory, with the working directory of its relative paths."""
    record = {"working_directory": os.getcwd()} | _to_json(start, directory.path)
    write_atomically(directory.start, json.dumps(record) + "\n")


def _recorded(directory: RunDir) -> Start:
    try:
        return _from_json(json.loads(directory.start.read_text()), directory.path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            str(directory.start),
            expected="the record of the run's initial weights",
            got=str(error),
            remedy="copy the complete run directory, which includes this file",
        ) from error


def _to_json(start: Start, run: Path) -> dict[str, Any]:
    """Return the start with every local path both absolute and relative to the run directory.

    A path in the cache of the Hub has its repository and commit too: each host has its own cache.
    """
    record = dataclasses.asdict(start)
    for name in PLACES:
        if record[name] is not None and "://" not in record[name]:
            path = os.path.abspath(record[name])
            record[name] = {"path": path, "from_run": os.path.relpath(path, run)}
            if hub := cached_id(path):
                record[name]["hub"] = str(hub)
    return record | {"below": start.below and _to_json(start.below, run)}


def _from_json(record: dict[str, Any], run: Path) -> Start:
    names = {field.name for field in dataclasses.fields(Start)}
    fields = {name: value for name, value in record.items() if name in names}
    for name in PLACES:
        if isinstance(fields.get(name), dict):
            fields[name] = _current_path(fields[name], run)
    below, lora = fields.get("below"), fields.get("lora")
    return Start(
        **fields | {"below": below and _from_json(below, run), "lora": lora and LoraConfig(**lora)}
    )


def _current_path(place: dict[str, str], run: Path) -> str:
    """Return a recorded path, or its new place if it was moved together with the run directory.

    A repository on the Hub is the recorded commit in the cache of this host.
    """
    if "hub" in place and not Path(place["path"]).exists():
        return str(local_policy(place["hub"]))
    moved = run / place["from_run"]
    return str(moved) if moved.exists() and not Path(place["path"]).exists() else place["path"]

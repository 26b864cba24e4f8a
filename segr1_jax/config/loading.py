"""Conversion of a run's configuration from YAML and `key=value` overrides, and back to text.

OmegaConf reads the YAML and the overrides; the frozen dataclasses of config/schema.py are the
schema. Every value is checked against the type of its field, so an error names the source (file or
command line), the field and the remedy.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import OmegaConf

from segr1_jax.common.yaml_files import MALFORMED, one_line, read_yaml
from segr1_jax.config.checks import check_rules
from segr1_jax.config.recipes import configuration_file
from segr1_jax.config.schema import RunConfig
from segr1_jax.config.typed_values import typed
from segr1_jax.config.unknown_keys import unknown_key
from segr1_jax.errors import UserError
from segr1_jax.reward.term_files import with_term_files

WARMUP = "optimizer.warmup_steps"
SAM2, LOCAL_SAM2 = "reward.sam2", ("reward.sam2_config", "reward.sam2_checkpoint")
# Values that a key had before it named choices. Run directories of that time stay readable.
FORMER_VALUES = {"policy.remat": {True: "full", False: "none"}}
WHAT = "a YAML configuration file"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a YAML file, a recipe by its name, or config.yaml of a run directory.

    `key=value` overrides are applied to it.

    Paths inside are relative to the working directory. For a run directory, a path that does not
    exist there is taken relative to the working directory in which the run was started. The files
    of own terms may also be beside the configuration.

    Raises:
        UserError: the file is missing or not YAML; a key is unknown (the error names the nearest
            one) or has the wrong type; a value has `${...}`; or a rule is broken.

    Example:
        >>> load_config("configs/quickstart_grpo.yaml", ["steps=4"]).steps
        4
    """
    path = configuration_file(Path(path))
    file = path / "config.yaml" if path.is_dir() else path
    config = _apply(RunConfig(), read_yaml(file, WHAT, "`segr1 recipes` lists examples"), str(file))
    folder = file.parent
    if path.is_dir():
        # The run directory may have been moved, and the working directory may be another one.
        folder = _started_in(path)
        config = dataclasses.replace(_with_paths(config, folder), run_dir=str(path))
    return override(config, overrides, folder)


def override(config: RunConfig, overrides: Sequence[str], folder: Path = Path()) -> RunConfig:
    """Return `config` with `key=value` overrides, checked. Raises UserError as load_config does.

    Files of own terms that do not exist relative to the working directory are looked up in
    `folder`.
    """
    overrides = [*overrides, *_replaced_sam2(overrides)]
    changed = _apply(config, _read_overrides(overrides), "command line")
    if not any(_key(text) == WARMUP for text in overrides):
        changed = _with_fitting_warmup(config, changed)
    check_rules(changed)
    return dataclasses.replace(changed, reward=with_term_files(changed.reward, folder))


def _replaced_sam2(overrides: Sequence[str]) -> list[str]:
    """Return overrides that empty the other way to name a SAM2: on the Hub, or by local files."""
    given = {_key(text) for text in overrides if text.partition("=")[2].strip()}
    if SAM2 in given and not given & set(LOCAL_SAM2):
        return [f"{key}=" for key in LOCAL_SAM2]
    if given & set(LOCAL_SAM2) and SAM2 not in given:
        return [f"{SAM2}="]
    return []


def _with_fitting_warmup(before: RunConfig, config: RunConfig) -> RunConfig:
    """Return `config` with its warm-up scaled down if overrides made the run shorter than it."""
    warmup, updates = config.optimizer.warmup_steps, config.updates
    if not updates <= warmup < before.updates:
        return config
    scaled = warmup * updates // before.updates
    print(
        f"{WARMUP} is {scaled} instead of {warmup}: the run has {updates} updates "
        f"instead of {before.updates}.",
        file=sys.stderr,
    )
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=scaled)
    return dataclasses.replace(config, optimizer=optimizer)


def dump_config(config: RunConfig) -> str:
    """Return the whole configuration as YAML, from which load_config reads an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(_tree(config)))


def _tree(config: Any) -> dict[str, Any]:
    """Return the tree that `_apply` reads back."""
    tree = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("others"):
            tree |= value
        else:
            tree[field.name] = _tree(value) if dataclasses.is_dataclass(value) else value
    return tree


def describe(config: Any = None) -> str:
    """Return key, value and documentation of every knob, in the order of the schema."""
    return "\n".join(
        f"{key} = {value!r}\n    {doc}"
        for key, value, doc in _knobs(RunConfig() if config is None else config)
    )


def flatten(config: Any) -> dict[str, Any]:
    """Return the value of every leaf by its dotted key; an empty mapping has none."""
    return {key: value for key, value, _ in _knobs(config) if value != {}}


def _started_in(run: Path) -> Path:
    """Return the working directory in which a run was started, or the current one."""
    try:
        return Path(json.loads((run / "start.json").read_text())["working_directory"])
    except (OSError, ValueError, KeyError):
        # The run has not begun, or start.json was written before it had this field.
        return Path()


def _with_paths(config: Any, base: Path) -> Any:
    """Return `config` with the paths that do not exist taken relative to `base`, if they do."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _with_paths(value, base)
        elif field.metadata.get("path") and value and not Path(value).exists():
            moved = base / value
            changes[field.name] = str(moved) if moved.exists() else value
    return dataclasses.replace(config, **changes)


def _knobs(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        doc = field.metadata.get("doc", "")
        if dataclasses.is_dataclass(value):
            yield from _knobs(value, f"{prefix}{field.name}.")
        elif field.metadata.get("others"):
            yield from ((prefix + name, other, doc) for name, other in value.items())
        elif isinstance(value, dict) and value:
            yield from _leaves(value, prefix + field.name, doc)
        else:
            yield prefix + field.name, value, doc


def _leaves(tree: dict[str, Any], key: str, doc: str) -> Iterator[tuple[str, Any, str]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{key}.{name}", doc)
        else:
            yield f"{key}.{name}", value, doc


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    for text in overrides:
        if not text.partition("=")[1] or not _key(text):
            raise UserError(
                "command line",
                expected="key=value",
                got=repr(text),
                remedy="write for example steps=100",
            )
    texts = {key for key, value in flatten(RunConfig()).items() if isinstance(value, str)}
    literal = [_literal(text) if _key(text) in texts else text for text in overrides]
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(literal), resolve=False)
    except MALFORMED as error:
        raise UserError(
            "command line",
            expected="key=value with a YAML value",
            got=one_line(error),
            remedy="quote the value",
        ) from error


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _literal(override: str) -> str:
    """Return an override whose value YAML reads as plain text, not as a comment or a number.

    A value in quotes is YAML already and does not change.
    """
    value = override.partition("=")[2]
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return override
    return f"{_key(override)}={json.dumps(value, ensure_ascii=False)}"


def _apply(config: Any, tree: dict[str, Any], source: str, prefix: str = "") -> Any:
    """Return `config` with the values of `tree`, recursively over sections."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    free = next((name for name in fields if fields[name].metadata.get("others")), None)
    hints = get_type_hints(type(config))
    changes = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name in fields and name != free:
            if parse := fields[name].metadata.get("parse"):
                value = parse(value, f"{source}: {key}", Path(source).parent)
            old = getattr(config, name)
            changes[name] = _value(old, value, hints[name], source, key)
        elif free:
            known = changes.get(free, getattr(config, free))
            kind = fields[free].metadata["others"]
            changes[free] = known | {str(name): typed(value, kind, None, f"{source}: {key}")}
        else:
            docs = {full: doc for full, _, doc in _knobs(RunConfig())}
            raise unknown_key(source, key, list(fields), docs)
    try:
        return dataclasses.replace(config, **changes)
    except UserError as error:
        # The dataclass names its own field; add the file or command line, and the section.
        where = f"{source}: {prefix}{error.where.rpartition('.')[2]}"
        raise UserError(
            where, expected=error.expected, got=error.got, remedy=error.remedy
        ) from None


def _value(old: Any, value: Any, hint: Any, source: str, key: str) -> Any:
    """Return `value` as that of the field `key`, whose value is `old`."""
    if isinstance(value, bool):
        value = FORMER_VALUES.get(key, {}).get(value, value)
    if not dataclasses.is_dataclass(old):
        return typed(value, type(old), hint, f"{source}: {key}")
    if isinstance(value, dict):
        return _apply(old, value, source, f"{key}.")
    raise UserError(
        f"{source}: {key}",
        expected="a section of keys",
        got=repr(value),
        remedy=f"set {key}.{dataclasses.fields(old)[0].name} or another",
    )

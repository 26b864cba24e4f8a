"""Data flows one way: a module imports only from lower ranks or its own folder, heavy libraries only where they belong."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "segr1_jax"

# The longest matching prefix decides. L0 to L4 of the design are 0, 10, 20, 30 and up, 40; the schema of a run composes the
# stages' own schemas, training evaluates, and a trained policy is applied with the trainer's tools.
RANKS = {
    "": 0,  # segr1_jax itself
    **dict.fromkeys(("types", "errors", "arrays"), 0),
    **dict.fromkeys(("knobs", "frames", "files", "extras", "json_fields", "requirements"), 1),
    "hardware": 2,
    **dict.fromkeys(("data", "prompt", "answer", "policy", "reward", "grpo", "sft"), 10),
    "coordinates": 11,
    "rollout.config": 10,
    "train.config": 15,
    **dict.fromkeys(("hf", "rollout", "update", "viz", "judge"), 20),
    "eval": 30,
    "train": 33,
    **dict.fromkeys(("apply", "plan", "doctor"), 36),
    "profile": 37,  # counts FLOPs as a plan does
    "cli": 40,
}
JAX_FREE = ("reward", "data", "prompt", "answer", "types")
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")


def _is_torch_module(name: str) -> bool:
    return name.startswith(("reward.sidecar", "reward.sam2_", "apply.reference_logits"))


def _modules() -> dict[str, Path]:
    return {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> set[str]:
    """Every module that a file names in an import, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = _modules()
IMPORTS = {name: _imports(path) for name, path in MODULES.items()}


def _own(name: str) -> set[str]:
    """Our modules that a module imports; `from package import module` is an import of the module alone."""
    own = {
        target.removeprefix("segr1_jax.")
        for target in IMPORTS[name]
        if target.removeprefix("segr1_jax.") in MODULES
    }
    return own - {target.rpartition(".")[0] for target in own}


def _rank(name: str) -> int:
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next(RANKS[prefix] for prefix in prefixes if prefix in RANKS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_or_stay_in_the_folder(name):
    for target in _own(name):
        folder = name.split(".")[0]
        same_folder = (PACKAGE / folder).is_dir() and target.split(".")[0] == folder
        assert same_folder or _rank(target) < _rank(name), f"{name} imports {target}"


def test_no_cycle():
    graphlib.TopologicalSorter({name: _own(name) - {name} for name in MODULES}).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_stay_where_they_belong(name):
    roots = {target.split(".")[0] for target in IMPORTS[name]}
    if not _is_torch_module(name):
        assert not roots & {"torch", "torchvision", "sam2"}
    if name.split(".")[0] in JAX_FREE:
        assert not roots & set(JAX)
    assert not {"transformers.AutoTokenizer", "transformers.AutoConfig"} & IMPORTS[name], (
        "they load torch"
    )


@pytest.mark.parametrize(
    "module", ["segr1_jax", "segr1_jax.cli", "segr1_jax.train.load_config", "segr1_jax.apply.score"]
)
def test_importing_stays_light(module):
    code = f"import sys, {module}; print([name for name in ('torch', 'tensorboardX', 'jax') if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"

"""Direction of imports: from lower levels and the own folder only.

Heavy libraries are imported only where they belong.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "segr1_jax"

# A folder's level: it imports from itself and from lower levels. The schema of a run composes the
# stages' own schemas, training evaluates, and a trained policy is used with the trainer's tools.
LEVELS = {
    **dict.fromkeys(("", "types", "errors"), 0),
    "common": 1,
    "answer": 5,
    **dict.fromkeys(("data", "prompt", "policy", "reward"), 10),
    **dict.fromkeys(("objective", "rollout"), 12),
    "config": 15,
    "hf": 20,
    "metrics": 25,
    "runtime": 28,
    "training": 33,
    **dict.fromkeys(("infer", "plan"), 36),
    **dict.fromkeys(("export", "profile"), 37),  # a profile counts FLOPs as a plan does
    "eval": 38,
    "api": 39,
    "cli": 40,
}
JAX_FREE = ("reward", "data", "prompt", "answer", "common", "config", "types")
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")


def _is_torch_module(name: str) -> bool:
    return name.startswith(("reward.sidecar", "export.reference_logits", "export.assets"))


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
    """Return the modules of the package that a module imports.

    `from package import module` is an import of the module alone.
    """
    own = {
        target.removeprefix("segr1_jax.")
        for target in IMPORTS[name]
        if target.removeprefix("segr1_jax.") in MODULES
    }
    return own - {target.rpartition(".")[0] for target in own}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_or_stay_in_the_folder(name):
    folder = name.split(".")[0]
    for target in _own(name):
        below = target.split(".")[0]
        assert below == folder or LEVELS[below] < LEVELS[folder], f"{name} imports {target}"


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
    "module", ["segr1_jax", "segr1_jax.cli", "segr1_jax.config.loading", "segr1_jax.eval.score"]
)
def test_importing_stays_light(module):
    heavy = ("torch", "tensorboardX", "jax", "wandb", "trackio")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"

"""The notebooks run from top to bottom, and those in the repository show what they made."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
nbclient = pytest.importorskip("nbclient", reason="needs the extra dev")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "launch/notebooks").glob("*.ipynb"))
LIMIT_S = 900  # of one cell


def pictures_of(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.e2e
@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """With few steps, in a folder without the repository, on one device."""
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STEPS", "10")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    written = nbformat.read(path, as_version=4)
    shown = pictures_of(written)
    nbclient.NotebookClient(
        written, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert pictures_of(written) == shown > 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_in_the_repository_holds_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert path.stat().st_size < 1 << 20

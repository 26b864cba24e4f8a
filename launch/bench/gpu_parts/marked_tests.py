"""The tests marked `gpu`, each a row."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from gpu_parts.request import MAX_ERROR, Add, Request

TESTS = Path(__file__).parents[3] / "tests"
MARK = "mark.gpu"


def measure(request: Request, add: Add) -> None:
    """Add a row for each test; only files that have the mark are collected."""
    files = [file for file in sorted(TESTS.rglob("test_*.py")) if MARK in file.read_text()]
    if importlib.util.find_spec("pytest") is None or not files:
        add({"name": "pytest", "skipped": "no pytest, or no tests/"})
        return
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        subprocess.run([*command, f"--junitxml={results}", *map(str, files)], cwd=TESTS.parent)
        for case in ElementTree.parse(results).iter("testcase"):
            add(row_of(case))


def row_of(case: ElementTree.Element) -> dict:
    """Return the row of a test in a file of results."""
    row = {"name": case.get("name"), "seconds": float(case.get("time", 0.0))}
    for outcome in case:
        message = " ".join((outcome.get("message") or outcome.tag).split())[:MAX_ERROR]
        if outcome.tag in ("failure", "error"):
            row["error"] = message
        elif outcome.tag == "skipped":
            row["skipped"] = message
    return row

"""Results of the parts as JSON and as tables; each row is on the disk as soon as it is measured."""

import datetime
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from segr1_jax.common.files import write_atomically
from segr1_jax.plan.table import table

EMPTY = {"status": "", "seconds": None, "error": "", "rows": []}


class Record:
    """The files gpu.json and gpu.md of a folder.

    Only one process writes at a time: a part while it runs, and the script that starts the parts
    between two of them.
    """

    def __init__(self, folder: Path):
        self.file, self.page_file = folder / "gpu.json", folder / "gpu.md"
        self.log = folder / "gpu.log"

    def begin(self, **facts: Any) -> None:
        """Start a new record; the files of an earlier one are replaced."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        self._write({"date": datetime.datetime.now().isoformat("T", "seconds")} | facts)

    def part(self, name: str) -> dict[str, Any]:
        """Return what is known of a part: its status, seconds, error and rows."""
        return EMPTY | self._read().get("parts", {}).get(name, {})

    def row(self, part: str, name: str) -> dict[str, Any] | None:
        """Return a row of a part by its name, or None."""
        return next((row for row in self.part(part)["rows"] if row["name"] == name), None)

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Append a row to a part."""
        row = {key: _stored(value) for key, value in row.items()}
        self.update(part, rows=[*self.part(part)["rows"], row])

    def update(self, part: str, **facts: Any) -> None:
        """Set facts of a part."""
        whole = self._read()
        parts = whole.get("parts", {})
        self._write(whole | {"parts": parts | {part: self.part(part) | facts}})

    def page(self) -> str:
        """Return the results so far as markdown, a table for each part."""
        whole = self._read()
        lines = ["# Measured on this machine", "", f"`{whole['command']}`, {whole['date']}", ""]
        for name, part in whole.get("parts", {}).items():
            seconds = "" if part["seconds"] is None else f", {part['seconds']:.0f} s"
            error = f": {part['error']}" if part["error"] else ""
            lines += [f"## {name}: {part['status'] or 'running'}{seconds}{error}", ""]
            lines += [_table(part["rows"]), ""] if part["rows"] else []
        return "\n".join(lines)

    def remove_partial_files(self) -> None:
        """Remove what a process that was killed while it wrote has left."""
        for file in (self.file, self.page_file):
            for partial in file.parent.glob(f".{file.name}.*"):
                partial.unlink()

    def _read(self) -> dict[str, Any]:
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def _write(self, whole: dict[str, Any]) -> None:
        write_atomically(self.file, json.dumps(whole, indent=1, allow_nan=False))
        write_atomically(self.page_file, self.page())


def _table(rows: list[dict[str, Any]]) -> str:
    # What most rows have comes first.
    counts = Counter(key for row in rows for key in row)
    columns = sorted(counts, key=lambda key: -counts[key])
    return table(
        tuple(columns), [tuple(_cell(row.get(column, "")) for column in columns) for row in rows]
    )


def _stored(value: Any) -> Any:
    """Return a value that JSON can hold: numbers that are not finite become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")

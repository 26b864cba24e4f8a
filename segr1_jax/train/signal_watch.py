"""Tell the user, once, that a run has nothing to learn from.

A group whose completions all earn the same has no advantages. Where that is so of nearly all groups
for a few steps, the weights stand still, and no figure of the log says why.
"""

import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 5  # steps
DEAD_SHARE = 0.95  # of the groups of the window, from which on the run is taken to learn nothing
PARSED = "parse/ok"
PARSED_SHARE = 0.5  # below it the texts are at fault, above it the lack of variety among them


class SignalWatch:
    """Print one line on standard error after WINDOW steps of dead groups.

    The figures are means over all processes (train/step_figures.py), so one process watches.
    """

    def __init__(self):
        self._dead, self._parsed = deque(maxlen=WINDOW), deque(maxlen=WINDOW)
        self._has_told = False

    def look(self, figures: Mapping[str, Any]) -> None:
        """Take the figures of one step into account."""
        self._dead.append(float(figures["dead_groups"]))
        self._parsed.append(float(figures[PARSED]))
        if self._has_told or len(self._dead) < WINDOW or _mean(self._dead) < DEAD_SHARE:
            return
        self._has_told = True
        print(_advice(_mean(self._dead), _mean(self._parsed)), file=sys.stderr, flush=True)


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values)


def _advice(dead: float, parsed: float) -> str:
    found = (
        f"nothing to learn from in the last {WINDOW} steps: in {dead:.0%} of the groups every "
        "answer earned the same"
    )
    if parsed < PARSED_SHARE:
        return (
            f"{found}, and {parsed:.0%} of the answers parsed. Remedy: stop, run `segr1 sft` with "
            "this data and prompt first, and set policy.path to its run_dir"
        )
    return (
        f"{found}. Remedy: a higher rollout.temperature, a larger rollout.group, or rollout.refill,"
        " which replaces such groups"
    )

"""Tell the user, once, that a run has nothing to learn from.

A group whose completions all have the same reward gives no learning signal: all its advantages are
zero. If this holds for nearly all groups over several steps, the policy does not improve, and the
logged metrics do not show why.
"""

import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 5  # steps
DEAD_SHARE = 0.95  # warn if at least this share of recent groups has no advantages
PARSED = "parse/ok"
PARSED_SHARE = 0.5  # below: blame answers that do not parse; above: blame too little variety


class SignalWatch:
    """Print one line to standard error after WINDOW steps of dead groups.

    The figures are means over all processes (training/step_figures.py), so one watcher is enough.
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
        "answer earned the same reward"
    )
    if parsed < PARSED_SHARE:
        return (
            f"{found}, and only {parsed:.0%} of the answers parsed. Remedy: stop, run `segr1 sft` "
            "with this data and prompt first, and set policy.path to its run_dir"
        )
    return (
        f"{found}. Remedy: a higher rollout.temperature, a larger rollout.group, or rollout.refill,"
        " which replaces such groups"
    )

"""Measure how much faster the S-measure of masks is than that of pysodmetrics.

    python launch/bench/s_measure.py [--side 756] [--rounds 15]

All run in turn in one process, on the same masks of 756 x 756 pixels. pysodmetrics needs
numpy < 2.3.5, so run the script in a separate environment (numpy, pysodmetrics, jaxtyping). The
baseline is the usual code for two masks: make images of them, `Smeasure().step`, `get_results`.
`cal_sm`, its inner function on prepared arrays, is printed too. The figures are medians of CPU
time. The exit status is 1 if values differ or the ratio to the baseline is below 30.
"""

import argparse
import statistics
import sys
import time

import numpy as np
from py_sod_metrics import Smeasure

from segr1_jax.reward.scores import s_measure

WANTED_RATIO = 30
# Consecutive calls of one kind, so that most of them find their arrays in the CPU cache.
IN_A_ROW = 5
# float64, with sums in another order.
TOLERANCE = 1e-12


def masks(side: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return pairs of mask and ground truth by name.

    They are two overlapping discs, as of a fair answer, and noise, the worst case for branches.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    first, second = ((x - cx) ** 2 + (y - 0.5) ** 2 < 0.04 for cx in (0.45, 0.5))
    return {"discs": (first, second), "noise": tuple(rng.random((2, side, side)) < 0.5)}


def stepped(mask: np.ndarray, truth: np.ndarray) -> float:
    measure = Smeasure()
    measure.step(pred=mask.astype(np.uint8) * 255, gt=truth.astype(np.uint8) * 255)
    return measure.get_results()["sm"]


def cpu_ms(call, *arguments) -> float:
    """Return the CPU time of a call in milliseconds.

    CPU time leaves out other work on the machine. All calls run on one thread.
    """
    began = time.process_time()
    call(*arguments)
    return (time.process_time() - began) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=756)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    failed = False
    for name, (mask, truth) in masks(options.side).items():
        gray = mask.astype(np.float64)
        calls = {
            "step": (stepped, mask, truth),
            "cal_sm": (Smeasure().cal_sm, gray, truth),
            "ours": (s_measure, mask, truth),
        }
        times = {who: [] for who in calls}
        for _ in range(options.rounds):
            for who, call in calls.items():
                times[who] += [cpu_ms(*call) for _ in range(IN_A_ROW)]
        step, cal_sm, ours = (statistics.median(column) for column in times.values())
        difference = abs(s_measure(mask, truth) - stepped(mask, truth))
        print(
            f"{name}: pysodmetrics {step:.2f} ms (cal_sm {cal_sm:.2f}), ours {ours:.3f} ms: "
            f"ratio {step / ours:.1f} (cal_sm {cal_sm / ours:.1f}), difference {difference:.1e}"
        )
        failed |= difference > TOLERANCE or step / ours < WANTED_RATIO
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""How much faster is the S-measure of masks than pysodmetrics? One run, all in turn, on the same masks of 756 x 756 pixels.

    python launch/bench_s_measure.py [--side 756] [--rounds 15]

Needs pysodmetrics, which wants numpy < 2.3.5: run it in an environment of its own (numpy, pysodmetrics, jaxtyping). The baseline is
what its users write for two masks: make images of them, `Smeasure().step`, `get_results`. `cal_sm`, its inner function on arrays that
are ready, is printed too. Medians of CPU time. Exit status 1 where values differ, or the ratio to the baseline is below 30.
"""

import argparse
import statistics
import sys
import time

import numpy as np
from py_sod_metrics import Smeasure

from segr1_jax.reward.scores import s_measure

WANTED_RATIO = 30
IN_A_ROW = 5  # calls of one kind, so that each mostly finds its own arrays in the cache
TOLERANCE = 1e-12  # float64, sums in another order


def masks(side: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mask and ground truth by name: two discs that overlap, as of a fair answer, and noise, the worst case for branches."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    first, second = ((x - cx) ** 2 + (y - 0.5) ** 2 < 0.04 for cx in (0.45, 0.5))
    return {"discs": (first, second), "noise": tuple(rng.random((2, side, side)) < 0.5)}


def stepped(mask: np.ndarray, truth: np.ndarray) -> float:
    measure = Smeasure()
    measure.step(pred=mask.astype(np.uint8) * 255, gt=truth.astype(np.uint8) * 255)
    return measure.get_results()["sm"]


def cpu_ms(call, *arguments) -> float:
    """CPU time, so that other work on the machine counts for neither side; all of them run on one thread."""
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
        grey = mask.astype(np.float64)
        calls = {
            "step": (stepped, mask, truth),
            "cal_sm": (Smeasure().cal_sm, grey, truth),
            "ours": (s_measure, mask, truth),
        }
        times = {who: [] for who in calls}
        for _ in range(options.rounds):
            for who, call in calls.items():
                times[who] += [cpu_ms(*call) for _ in range(IN_A_ROW)]
        step, cal_sm, ours = (statistics.median(column) for column in times.values())
        difference = abs(s_measure(mask, truth) - stepped(mask, truth))
        print(
            f"{name}: pysodmetrics {step:.2f} ms (cal_sm {cal_sm:.2f}), ours {ours:.3f} ms: ratio {step / ours:.1f}",
            end="",
        )
        print(f" (cal_sm {cal_sm / ours:.1f}), difference {difference:.1e}")
        failed |= difference > TOLERANCE or step / ours < WANTED_RATIO
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

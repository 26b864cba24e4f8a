"""Folders of photos of 6 megapixels, and the memory that a program takes on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = (3000, 2000)  # pixels: 6 megapixels
FILES = 10  # different ones; the others are hard links
WATCH = """
import json, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import pytest, tiny_run
peak = 0
def watch():
    global peak
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = max(peak, *(int(l.split()[1]) for l in lines if l.startswith("RssAnon")))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
with pytest.MonkeyPatch.context() as patch:
    {program}
print("peak", json.dumps(peak / 1e6))
"""


def make_photos(folder: Path, count: int = 300) -> None:
    """Write `count` photos and masks to images/ and masks/."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(count):
        image, mask = folder / f"images/{index:04d}.jpg", folder / f"masks/{index:04d}.png"
        if index >= FILES:
            os.link(folder / f"images/{index % FILES:04d}.jpg", image)
            os.link(folder / f"masks/{index % FILES:04d}.png", mask)
            continue
        small = rng.integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(small).resize(SIDE).save(image)
        blob = np.zeros((40, 60), np.uint8)
        blob[5 + index : 20 + index, 10:30] = 255
        Image.fromarray(blob).resize(SIDE, Image.Resampling.NEAREST).save(mask)


def peak_gb(program: str, *arguments: object) -> float:
    """Peak anonymous memory of `program`: it has `patch`, and its arguments in sys.argv[2:]."""
    support = Path(__file__).parent
    command = [sys.executable, "-c", WATCH.replace("{program}", program), support, *arguments]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(support.parents[1])}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("peak")[2])

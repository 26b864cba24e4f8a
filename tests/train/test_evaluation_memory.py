"""An evaluation and the closing report hold a few photos at a time, however many a set has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segr1_jax.hf.tiny import make_tiny_policy

SIDE = (3000, 2000)  # pixels: 6 megapixels
FILES = 10  # different ones; the others are hard links
BOUND_GB = 0.3
PROGRAM = """
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
    tiny_run.train(patch, sys.argv[2], Path(sys.argv[3]), lambda position: (0.0, 1.0), *sys.argv[4:])
print("peak", json.dumps(peak / 1e6))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of 300 photos and masks of 6 megapixels, and a policy."""
    folder = tmp_path_factory.mktemp("photos")
    make_tiny_policy(folder / "policy", seed=1, frame=84)
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(300):
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
    return folder


def peak_gb(photos: Path, run: Path, count: int) -> float:
    ids = run.with_suffix(".txt")
    ids.write_text("".join(f"{index:04d}\n" for index in range(count)))
    where = [f"images={photos / 'images'}", f"masks={photos / 'masks'}"]
    sections = [
        f"{part}.{key}" for part in ("data", "eval_data") for key in ("kind=folder", *where)
    ]
    # A run refuses a held-out set that is named as its training set is.
    held_out = run.with_suffix(".held_out")
    held_out.write_text(ids.read_text())
    words = [*sections, f"data.ids={ids}", f"eval_data.ids={held_out}"]
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", PROGRAM, tests, photos / "policy", run, "steps=1", *words]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(tests.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("peak")[2])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(photos, tmp_path):
    small, large = (peak_gb(photos, tmp_path / f"run_{count}", count) for count in (30, 300))
    print(f"peak anonymous memory: {small:.2f} GB at 30 photos, {large:.2f} GB at 300")
    assert large - small < BOUND_GB

"""An evaluation and the closing report hold a few photos at a time, however many a set has."""

from pathlib import Path

import large_photos
import pytest

from segr1_jax.hf.tiny_policy import make_tiny_policy

BOUND_GB = 0.3
DIS5K = (3000, 470)  # training and held-out photos
DIS5K_BOUND_GB = 1.0  # above that of 30 photos
PROGRAM = """
    rewards = lambda position: (0.0, 1.0)
    tiny_run.train(patch, sys.argv[2], Path(sys.argv[3]), rewards, *sys.argv[4:])
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of photos and masks of 6 megapixels, and a policy."""
    folder = tmp_path_factory.mktemp("photos")
    make_tiny_policy(folder / "policy", seed=1, frame=84)
    large_photos.make_photos(folder, DIS5K[0])
    return folder


def peak_gb(photos: Path, run: Path, train: int, held_out: int) -> float:
    where = [f"images={photos / 'images'}", f"masks={photos / 'masks'}"]
    sections = [
        f"{part}.{key}" for part in ("data", "eval_data") for key in ("kind=folder", *where)
    ]
    words = []
    for part, count in (("data", train), ("eval_data", held_out)):
        ids = run.with_suffix(f".{part}")
        ids.write_text("".join(f"{index:04d}\n" for index in range(count)))
        words.append(f"{part}.ids={ids}")
    return large_photos.peak_gb(PROGRAM, photos / "policy", run, "steps=1", *sections, *words)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(photos, tmp_path):
    small, large = (peak_gb(photos, tmp_path / f"run_{count}", count, count) for count in (30, 300))
    print(f"peak anonymous memory: {small:.2f} GB at 30 photos, {large:.2f} GB at 300")
    assert large - small < BOUND_GB


@pytest.mark.slow
def test_memory_at_the_size_of_dis5k(photos, tmp_path):
    small = peak_gb(photos, tmp_path / "small", 30, 30)
    large = peak_gb(photos, tmp_path / "large", *DIS5K)
    print(f"peak anonymous memory: {small:.2f} GB at 30 photos, {large:.2f} GB at {DIS5K}")
    assert large - small < DIS5K_BOUND_GB

"""Where the mask of a sample lies: in the folder, and in a file that no other sample has."""

import itertools
import posixpath

import numpy as np

from segr1_jax.metrics.predictions import MASKS, mask_name, remove_mask, write_mask

PARTS = ("a", "A", "", ".", "..", "_", "%", "%2E", "a.png", "a\0")
NAMES = ["/".join(parts) for count in (1, 2, 3) for parts in itertools.product(PARTS, repeat=count)]


def test_no_two_names_share_a_file():
    """File systems see a path without its empty and dot parts, so that is what has to differ."""
    files = {posixpath.normpath(mask_name(name)) for name in NAMES}
    assert len(files) == len(NAMES)


def test_every_file_lies_in_the_folder():
    for name in NAMES:
        assert posixpath.normpath(mask_name(name)).startswith(f"{MASKS}/"), name
        assert "\0" not in mask_name(name)


def test_a_plain_name_is_its_file():
    for name in ("12", "photos/12.jpg", "photos/12.jpg-2", "a.b/c d", "...", "ü"):
        assert mask_name(name) == f"masks/{name}.png"


def test_the_mask_of_one_name_is_not_removed_with_another(tmp_path):
    masks = {name: np.eye(3, k=index, dtype=bool) for index, name in enumerate(("a/../b", "a/_/b"))}
    for name, mask_HW in masks.items():
        write_mask(tmp_path, name, mask_HW)
    remove_mask(tmp_path, "a/../b")
    assert (tmp_path / mask_name("a/_/b")).is_file()

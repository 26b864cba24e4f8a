"""What `--protocol reference` copies of the reference code's evaluation of reasoning sets."""

import numpy as np
import pytest

from segr1_jax.metrics.predictions import Prediction, write_mask
from segr1_jax.metrics.sample_protocol import PROTOCOLS
from segr1_jax.metrics.set_scores import score_set
from segr1_jax.types import Example


class OneSample:
    """A target of 40 pixels on the left and as many ignored ones on the right."""

    names, largest_pixels = ("a",), 80

    def __len__(self):
        return 1

    def __getitem__(self, index):
        left_HW = np.arange(10)[None].repeat(8, 0) < 5
        return Example(0, "a", np.zeros((8, 10, 3), np.uint8), left_HW, ignore=~left_HW)


@pytest.mark.parametrize(("protocol", "giou"), [("standard", 1.0), ("reference", 0.5)])
def test_the_reference_code_takes_ignored_regions_for_background(tmp_path, protocol, giou):
    """Fault 26: a mask of everything is right about the 40 pixels of the target, of 80."""
    mask = write_mask(tmp_path, "a", np.ones((8, 10), bool))
    counted = PROTOCOLS[protocol]([Prediction("a", "ok", mask=mask)], "reasoning")
    result = score_set(OneSample(), counted, tmp_path, "reasoning")
    assert result.figures == {"giou": giou, "ciou": giou}

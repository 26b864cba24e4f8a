"""ReasonSeg's labels, polygons and ignored regions, as its official reader takes them."""

import json

import numpy as np
import pytest
from published_samples import every_sample

from segr1_jax.data.sets.registry import published_split
from segr1_jax.data.sets.toy import SIZE
from segr1_jax.errors import UserError

# (label, x and y of the square's first corner, its side) -> value of LISA's mask: 1 target, 255
# ignored.
LABELED = [
    ("target", (0, 0, 60), 1),
    ("Ignore", (10, 10, 9), 255),
    ("to be IGNORED, unclear", (30, 10, 8), 255),
    ("FLAG", (45, 10, 7), 1),  # not drawn: the target below it shows
    ("flag of a ship", (0, 70, 6), 1),
    ("Target", (20, 70, 5), 1),
    ("the dog", (40, 70, 5), 1),
    ("target", (60, 70, 4), 1),
    ("ignore", (60, 70, 4), 1),  # of one size: the first in the file lies on top
    ("ignore", (75, 70, 3), 255),
    ("target", (75, 70, 3), 255),
]


def test_reasonseg_labels_are_those_of_the_official_reader(own):
    """The case does not matter, and "flag" alone is skipped.

    "ignore" anywhere is ignored, everything else is the target.
    """
    shapes, expected = [], np.zeros((SIZE, SIZE), np.uint8)
    for label, (x, y, side), value in LABELED:
        corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
        shapes.append({"label": label, "points": corners})
        expected[y : y + side + 1, x : x + side + 1] = value
    path = sorted((own / "ReasonSeg/val").glob("*.json"))[0]
    path.write_text(json.dumps({"text": ["a"], "is_sentence": False, "shapes": shapes}))
    example = published_split(own, "reasonseg", "val")[0]
    np.testing.assert_array_equal(example.mask, expected == 1)
    np.testing.assert_array_equal(example.ignore, expected == 255)


def test_reasonseg_draws_polygons_and_what_to_ignore(toy):
    folder = toy / "ReasonSeg/val"
    for example in every_sample(toy, "reasonseg", "val"):
        record = json.loads((folder / f"{example.name}.json").read_text())
        left, top, right, bottom = (
            int(v) for point in record["shapes"][0]["points"][::2] for v in point
        )
        expected, ignored = np.zeros((2, SIZE, SIZE), bool)
        expected[top : bottom + 1, left : right + 1] = True
        ignored[:21, :21] = True
        smaller_on_top = ignored if ignored.sum() < expected.sum() else expected
        both = expected & ignored
        np.testing.assert_array_equal(
            example.mask, expected & ~(both & (smaller_on_top is ignored))
        )
        np.testing.assert_array_equal(
            example.ignore, ignored & ~(both & (smaller_on_top is expected))
        )
        question = record["is_sentence"]
        assert example.instruction == (
            f"what this asks for: {record['text'][0]}" if question else f"{record['text'][0]}."
        )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"text": []}',
        None,
        '{"text": ["caf\u00e9"], "is_sentence": false, "shapes": []}'.encode("cp1252"),
    ],
)
def test_reasonseg_annotations_at_fault_are_listed(own, content):
    path = sorted((own / "ReasonSeg/val").glob("*.json"))[0]
    path.unlink() if content is None else path.write_bytes(content)
    source = published_split(own, "reasonseg", "val")
    with pytest.raises(UserError, match=path.name):
        source[0]
    assert source[1].mask.any()

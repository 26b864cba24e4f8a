"""Lines of answers: what is read, what is refused and how it is named, what is opened once."""

import json

import numpy as np
import pytest
from PIL import Image

from segr1_jax.data import given_answers as answers
from segr1_jax.data.given_answers import example_opener, read_answers
from segr1_jax.errors import UserError

GOOD = {"image": "a.png", "mask": "m.png", "answer": "<think>"}


def write(folder, *lines):
    path = folder / "answers.jsonl"
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    )
    return path


def test_lines_keep_their_numbers_and_separators_inside_texts(tmp_path):
    text = "one\u2028two\x85three"
    path = write(
        tmp_path,
        GOOD | {"answer": ""},
        b"",
        b"  ",
        json.dumps(GOOD | {"answer": text, "id": "x"}, ensure_ascii=False).encode(),
    )
    first, second = read_answers(path)
    assert (first.line, first.id, first.text) == (1, "1", "")
    assert (second.line, second.id, second.text) == (4, "x", text)
    assert (second.image, second.mask) == (tmp_path / "a.png", tmp_path / "m.png")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"image": "a", "answer": "b"}, "no 'mask'"),
        ({"image": "a", "mask": "b"}, "no 'answer'"),
        (GOOD | {"answer": None}, "no 'answer'"),
        (GOOD | {"image": ""}, "an empty 'image'"),
        (GOOD | {"frame": 1024}, "the field 'frame'"),
        (GOOD | {"id": 3}, "3 for 'id'"),
        (GOOD | {"answer": ["x"]}, "for 'answer'"),
        ([], "a list"),
        (b"{", "line 1 column 2"),
        (b'{"image": "\xff"}', "utf-8"),
        (b"[" * 100_000, "recursion"),
        (GOOD | {"image": "\ud800.png"}, "half a surrogate pair in 'image'"),
        (GOOD | {"answer": "a\udc80"}, "half a surrogate pair in 'answer'"),
    ],
)
def test_a_malformed_line_is_named_with_what_is_wrong(tmp_path, line, words):
    with pytest.raises(UserError, match=r"answers\.jsonl:2: ") as error:
        list(read_answers(write(tmp_path, GOOD, line)))
    assert words in error.value.got
    assert "image, mask, answer and, optionally, id" in error.value.expected


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        list(read_answers(tmp_path / "absent.jsonl"))


def test_consecutive_answers_open_an_image_once(tmp_path, monkeypatch):
    for name in ("a", "b"):
        Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.full((4, 6), 255, np.uint8)).save(tmp_path / f"{name}_mask.png")
    opened = []
    monkeypatch.setattr(
        answers,
        "open_image",
        lambda path, real=answers.open_image: opened.append(path.stem) or real(path),
    )
    open_example = example_opener()
    pairs = [("a", "a"), ("a", "a"), ("a", "b"), ("b", "b"), ("a", "a")]
    examples = [
        open_example(tmp_path / f"{image}.png", tmp_path / f"{mask}_mask.png")
        for image, mask in pairs
    ]
    assert opened == ["a", "b", "a"]
    assert examples[0] is examples[1]
    assert examples[1].image is examples[2].image

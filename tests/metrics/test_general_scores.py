"""General benchmarks: TSV files, answers that count, and scores worked by hand."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from segr1_jax.data.general_benchmarks import (
    BENCHMARKS,
    FOLDER,
    Question,
    read_benchmark,
    write_toy_benchmarks,
)
from segr1_jax.errors import UserError
from segr1_jax.metrics.general_scores import Answered, accuracy, choice_of, f1, perception, request


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def question(
    index: str = "0",
    answer: str = "yes",
    options: dict | None = None,
    category: str = "",
    picture: str = "p",
) -> Question:
    return Question(index, picture, "Is it?", options or {}, answer, category, "file: row")


OPTIONS = {"A": "a dog", "B": "a cat", "C": "both"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(
            ("B", "B"),
            ("(B)", "B"),
            ("B.", "B"),
            (" b", None),
            ("B. a cat", "B"),
            ("(C) both", "C"),
            ("D", None),
            ("", None),
        ),
        *(
            ("A dog", "A"),
            ("Apple", None),
            ("The answer is B", None),
            ("B's", None),
            ("<script>", None),
        ),
    ],
)
def test_letters(text, expected):
    assert choice_of(text, OPTIONS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("NO, it is not", "no"),
        ("yesterday", None),
        ("I say yes", None),
        ("", None),
    ],
)
def test_yes_and_no(text, expected):
    assert choice_of(text, {}) == expected


def test_requests():
    assert request(question(options=OPTIONS, answer="A")).splitlines()[1:4] == [
        "A. a dog",
        "B. a cat",
        "C. both",
    ]
    assert request(question()) == "Is it? Please answer yes or no."


def test_a_rotated_question_is_right_if_all_its_rotations_are():
    rows = [
        ("1", "A", "A"),
        ("1000001", "B", "B"),
        ("2", "A", "A"),
        ("1000002", "B", "C"),
        ("3", "C", "C"),
    ]
    assert accuracy(
        [Answered(question(i, right, OPTIONS), said) for i, right, said in rows]
    ) == pytest.approx(200 / 3)


def test_f1_of_yes():
    rows = [
        ("yes", "Yes"),
        ("yes", "no"),
        ("no", "yes"),
        ("no", "No"),
        ("yes", "perhaps"),
        ("no", "perhaps"),
    ]
    # hits 1; said yes: 1, 3 and the unparsable answer to a no question = 3; truly yes 3: F1 = 2 / 6
    assert f1([Answered(question(answer=right), said) for right, said in rows]) == pytest.approx(
        100 / 3
    )
    assert f1([Answered(question(answer="yes"), "no")]) == 0


def test_perception_adds_questions_and_pairs():
    rows = [
        ("count", "p", "yes"),
        ("count", "p", "yes"),
        ("count", "q", "yes"),
        ("count", "q", "no"),
        ("OCR", "r", "yes"),
        ("code", "s", "yes"),
    ]
    answered = [
        Answered(question(category=category, picture=picture), said)
        for category, picture, said in rows
    ]
    assert perception(answered) == pytest.approx((75 + 50) + (100 + 100)), (
        "count and OCR; code is no perception"
    )


def test_toy_files_are_read_as_written(tmp_path):
    pictures = [png(0), png(1)]
    write_toy_benchmarks(tmp_path, pictures)
    for name, benchmark in BENCHMARKS.items():
        questions = read_benchmark(tmp_path, name)
        assert [q.index for q in questions] == ["0", "1", "2", "3"]
        assert [base64.b64decode(q.picture) for q in questions] == [
            pictures[0],
            pictures[0],
            pictures[1],
            pictures[1],
        ], "by reference too"
        assert questions[0].image().shape == (9, 12, 3)
        assert bool(questions[0].options) == (benchmark.kind == "choice")


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"MME\.tsv.*no such file"):
        read_benchmark(tmp_path, "mme")
    (tmp_path / FOLDER).mkdir()
    path = tmp_path / FOLDER / "POPE.tsv"
    for content, expected in (
        ("index\timage\n0\tx\n", "no column 'question'"),
        ("", "no rows"),
        ("index\timage\tquestion\tanswer\n0\tx\tq\tmaybe\n", "row 0.*'maybe'"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=expected):
            read_benchmark(tmp_path, "pope")
    path.write_text(f"index\timage\tquestion\tanswer\n0\t{'!' * 80}\tq\tyes\n")
    with pytest.raises(UserError, match="base64"):
        read_benchmark(tmp_path, "pope")[0].image()

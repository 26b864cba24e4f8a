"""General benchmarks in the TSV files that VLMEvalKit distributes.

Multiple choice: MMBench, AI2D. Yes or no: MME, POPE. Columns: index, image (base64, or the index of
the row that has it), question, answer; optionally hint, A to H, category.
"""

import base64
import binascii
import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segr1_jax.data.images import open_image
from segr1_jax.errors import UserError

FOLDER = "general"
LETTERS = "ABCDEFGH"
REFERENCE_LENGTH = 64  # an image cell of at most this length is the index of another row
NEEDED = ("index", "image", "question", "answer")


@dataclass(frozen=True)
class Benchmark:
    """Title of a benchmark, its file below ROOT/general, and its kind: choice or yes_no."""

    title: str
    file: str
    kind: str


BENCHMARKS = {
    "mmbench": Benchmark("MMBench", "MMBench_DEV_EN.tsv", "choice"),
    "mme": Benchmark("MME", "MME.tsv", "yes_no"),
    "pope": Benchmark("POPE", "POPE.tsv", "yes_no"),
    "ai2d": Benchmark("AI2D", "AI2D_TEST.tsv", "choice"),
}


@dataclass(frozen=True)
class Question:
    """One row of a benchmark.

    `picture` is the image in base64, so rows with equal values share an image. `options` is empty
    for yes or no; `answer` is a letter of `options`, or "yes" or "no". `where` names the row in
    errors.
    """

    index: str
    picture: str
    text: str
    options: dict[str, str]
    answer: str
    category: str
    where: str

    @property
    def name(self) -> str:
        return self.index

    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        """Decode the image. Raises UserError if the cell does not hold a picture."""
        try:
            content = base64.b64decode(self.picture, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(
                self.where,
                expected="an image in base64",
                got=str(error),
                remedy="download the file again",
            ) from error
        return open_image(Path(self.where), io.BytesIO(content))


def read_benchmark(root: Path, name: str) -> list[Question]:
    """Read the questions of one benchmark.

    Raises UserError for a missing file, missing columns or an invalid answer.
    """
    benchmark = BENCHMARKS[name]
    path = root / FOLDER / benchmark.file
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            str(path),
            expected=f"the TSV file of {benchmark.title}",
            got=got,
            remedy="download it there",
        ) from error
    if missing := [column for column in NEEDED if not rows or rows[0].get(column) is None]:
        got = f"no column {missing[0]!r}" if rows else "no rows"
        raise UserError(
            str(path),
            expected=f"the columns {', '.join(NEEDED)}",
            got=got,
            remedy="download it again",
        )
    images = {row["index"]: row["image"] for row in rows}
    return [_question(row, images, benchmark, f"{path}: row {row['index']}") for row in rows]


def _question(
    row: dict[str, str], images: dict[str, str], benchmark: Benchmark, where: str
) -> Question:
    picture = row["image"] if len(row["image"]) > REFERENCE_LENGTH else images.get(row["image"], "")
    options = {
        letter: text
        for letter in LETTERS
        if benchmark.kind == "choice" and (text := (row.get(letter) or "").strip())
    }
    answer = row["answer"].strip()
    answer = answer if options else answer.lower()
    question = row["question"].strip()
    if answer not in (options or ("yes", "no")):
        expected = "one of its options" if options else "yes or no"
        raise UserError(
            where,
            expected=f"an answer that is {expected}",
            got=repr(row["answer"]),
            remedy="use a split with answers",
        )
    # An empty cell may hold "nan", as pandas writes it.
    hint = (row.get("hint") or "").strip()
    return Question(
        index=row["index"],
        picture=picture,
        text=f"Hint: {hint}\n{question}" if hint and hint != "nan" else question,
        options=options,
        answer=answer,
        category=(row.get("category") or "").strip(),
        where=where,
    )


def write_toy_benchmarks(root: Path, pictures: list[bytes]) -> None:
    """Write a file for every benchmark, with two questions about each picture (JPEG or PNG)."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, benchmark in BENCHMARKS.items():
        choice = benchmark.kind == "choice"
        rows = []
        for number, picture in enumerate(picture for picture in pictures for _ in range(2)):
            image = base64.b64encode(picture).decode() if number % 2 == 0 else str(number - 1)
            answer = "AB"[number % 2] if choice else ("Yes", "No")[number % 2]
            question = "What is it?" if choice else "Is it bright? Please answer yes or no."
            options = {"A": "an object", "B": "noise"} if choice else {}
            category = "existence" if name == "mme" else "random"
            rows.append(
                {
                    "index": str(number),
                    "image": image,
                    "question": question,
                    **options,
                    "answer": answer,
                    "category": category,
                }
            )
        with (folder / benchmark.file).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

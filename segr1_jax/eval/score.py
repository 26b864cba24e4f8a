"""`segr1 score`: the reward of given answers. It needs no policy and no JAX."""

import itertools
import json
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segr1_jax.answer.grammar import stray_points
from segr1_jax.common.drawing import png
from segr1_jax.common.files import replacing, write_atomically
from segr1_jax.config.checks import MERGED_PATCH
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.given_answers import GivenAnswer, example_opener, read_answers
from segr1_jax.errors import UserError
from segr1_jax.metrics.held_out_figures import own_figure
from segr1_jax.metrics.tables import markdown_table
from segr1_jax.prompt.patches import model_frame
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, Judged, Pending, collect, submit
from segr1_jax.reward.terms import Terms
from segr1_jax.runtime.progress import Progress
from segr1_jax.types import Example, Frame, ScoreStatus

TERMS = {
    "total": "reward",
    "format": "format",
    "iou": "IoU",
    "s_measure": "S-measure",
}  # field of an output line -> heading
SKIPPED = "skipped"
FAULT = "fault"  # an own term of the reward failed
REASONS_SHOWN = 5
TOGETHER = 16  # answers on one image and mask sent in one go
AHEAD = 2  # sent before the oldest is waited for: pictures are opened while the sidecar works


def run_score(config: RunConfig, answers: Path, out: Path, masks: Path | None = None) -> str:
    """Score each line of `answers` (data/given_answers.py) and return the summary.

    Only the sections reward and prompt of the configuration are read. `out` gets one JSON line per
    answer, in order: id, parse and score status, the terms of the reward, boxes, stray_points. An
    answer that does not parse has terms 0 and score null. If a picture is unusable, the line is
    skipped with its reason, and its terms are null. `masks` gets the masks as PNGs of 0 and 255 by
    line number. Memory does not grow with the number of lines.

    Raises:
        UserError: a malformed line, found before anything is scored; an unwritable path.
    """
    _check_places(answers, out, masks)
    count = sum(1 for _ in read_answers(answers))
    if not count:
        raise UserError(
            str(answers),
            expected="at least one answer",
            got="none",
            remedy="write one JSON object per line",
        )
    own = {own_figure(name): name for name in Terms(config.reward).own_names}
    summary = Summary(answers, TERMS | own)
    with (
        replacing(out) as file,
        RewardClient(config.reward) as client,
        Progress("score", count) as progress,
    ):
        for done, (answer, row) in enumerate(
            AnswerScorer(config, client, masks).rows(read_answers(answers)), start=1
        ):
            file.write(json.dumps(row).encode() + b"\n")
            summary.add(answer, row)
            progress.update(done, summary.means())
    return summary.markdown()


class AnswerScorer:
    """Convert answers to output lines, submitting a few images ahead."""

    def __init__(self, config: RunConfig, client: RewardClient, masks: Path | None):
        self._config, self._client, self._masks = config, client, masks
        self._open, self._terms = example_opener(), Terms(config.reward)

    def rows(self, answers: Iterator[GivenAnswer]) -> Iterator[tuple[GivenAnswer, dict[str, Any]]]:
        """Yield each answer with its output line, in order."""
        sent = deque()
        for _, same in itertools.groupby(answers, key=lambda answer: (answer.image, answer.mask)):
            while group := list(itertools.islice(same, TOGETHER)):
                sent.append((group, self._send(group)))
                if len(sent) > AHEAD:
                    yield from self._receive(*sent.popleft())
        while sent:
            yield from self._receive(*sent.popleft())

    def _send(self, group: list[GivenAnswer]) -> Pending | UserError:
        """Submit answers about one image and mask; return the error if a file is unusable."""
        try:
            example = self._open(group[0].image, group[0].mask)
            texts = [AnswerText(example, answer.text) for answer in group]
            want_masks, legacy = self._masks is not None, self._config.reward.legacy
            return submit(
                self._client,
                texts,
                self._frame_of,
                self._config.prompt.task,
                want_masks=want_masks,
                need_masks=self._terms.need_masks,
                legacy=legacy,
            )
        except UserError as fault:
            return fault

    def _frame_of(self, example: Example) -> Frame:
        return model_frame(example.frame, self._config.prompt, MERGED_PATCH, example.name)

    def _receive(
        self, group: list[GivenAnswer], sent: Pending | UserError
    ) -> Iterator[tuple[GivenAnswer, dict[str, Any]]]:
        if isinstance(sent, UserError):
            yield from ((answer, _skipped_row(answer, sent)) for answer in group)
            return
        for answer, judged in zip(group, collect(self._client, sent, self._terms), strict=True):
            yield answer, _row(answer, judged) | self._save_mask(answer, judged)

    def _save_mask(self, answer: GivenAnswer, judged: Judged) -> dict[str, str]:
        if self._masks is None or judged.mask is None:
            return {}
        name = f"{answer.line:07d}.png"
        write_atomically(self._masks / name, png(judged.mask.astype(np.uint8) * 255))
        return {"mask": name}


@dataclass
class Summary:
    """Running means and counts over output lines."""

    answers: Path
    terms: dict[str, str]  # field of an output line -> heading
    outcomes: Counter[str] = field(default_factory=Counter)
    scored: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    def add(self, answer: GivenAnswer, row: dict[str, Any]) -> None:
        """Count a line; only lines with a reward enter the means."""
        self.outcomes[
            row["parse"] if row["score"] in (None, ScoreStatus.OK.value) else row["score"]
        ] += 1
        if row["total"] is not None:
            self.scored += 1
            self.sums.update({term: row[term] for term in self.terms})
        if row["score"] == SKIPPED and len(self.reasons) < REASONS_SHOWN:
            self.reasons.append(f"skipped {self.answers}:{answer.line}: {row['reason']}")

    def means(self) -> dict[str, float]:
        """Mean of each term; empty before the first reward."""
        return {term: self.sums[term] / self.scored for term in self.terms} if self.scored else {}

    def markdown(self) -> str:
        """Return the table of means, the counts of outcomes, the first reasons for skipping."""
        means = markdown_table(
            {str(self.answers): self.means() | {"count": self.scored}},
            self.terms | {"count": "scored"},
        )
        outcomes = markdown_table(
            {name: {"count": count} for name, count in self.outcomes.most_common()},
            {"count": "count"},
        )
        more = self.outcomes[SKIPPED] - len(self.reasons)
        reasons = [
            *self.reasons,
            *([f"and {more} more, with their reasons in the output"] if more else []),
        ]
        return "\n\n".join(
            [
                means,
                outcomes,
                *(["\n".join(f"- {reason}" for reason in reasons)] if reasons else []),
            ]
        )


def _row(answer: GivenAnswer, judged: Judged) -> dict[str, Any]:
    reward, parsed = judged.reward, judged.answer
    status = ScoreStatus.OK if reward.valid else ScoreStatus.QUARANTINED
    found = FAULT if judged.fault else status.value if parsed else None
    row = {"id": answer.id, "parse": reward.parse.value, "score": found}
    row |= {term: getattr(reward, term) if reward.valid else None for term in TERMS}
    row |= {own_figure(name): value if reward.valid else None for name, value in reward.own.items()}
    row |= {"reason": judged.fault} if judged.fault else {}
    return row | {
        "boxes": len(parsed.boxes) if parsed else None,
        "stray_points": stray_points(parsed) if parsed else None,
    }


def _skipped_row(answer: GivenAnswer, fault: UserError) -> dict[str, Any]:
    nothing = dict.fromkeys((*TERMS, "boxes", "stray_points"))
    return {"id": answer.id, "parse": None, "score": SKIPPED, **nothing, "reason": str(fault)}


def _check_places(answers: Path, out: Path, masks: Path | None) -> None:
    """Check that answers can be read twice and outputs written; create the folders."""
    if not answers.is_file():
        got = f"{answers} ({'not a regular file' if answers.exists() else 'missing'})"
        raise UserError(
            "--answers",
            expected="a regular file of JSON lines, because it is read twice",
            got=got,
            remedy="save the answers to a file first",
        )
    if out.is_dir() or out.resolve() == answers.resolve():
        raise UserError(
            "--out", expected="a file of its own", got=str(out), remedy="give another name"
        )
    for option, folder in (("--out", out.parent), ("--masks", masks)):
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                # Permission bits are not sufficient: root passes them but cannot write to /proc.
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(
                option,
                expected="a folder that can be written",
                got=str(error),
                remedy="choose another place",
            ) from error

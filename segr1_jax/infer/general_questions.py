"""General questions to the policy, which check that its other abilities are kept: chat, no SAM2.

Pictures keep their aspect ratio, as Qwen2.5-VL expects: these answers need no fixed frame.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from segr1_jax.common.files import json_line
from segr1_jax.data.general_benchmarks import Question
from segr1_jax.errors import UserError
from segr1_jax.infer.identity import prompt_identity
from segr1_jax.infer.responder import Responder
from segr1_jax.infer.resumable_lines import write_lines
from segr1_jax.metrics.general_scores import Answered, request
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.training.held_out import FILLER, Answerer
from segr1_jax.types import Prompt


def ask_all(
    responder: Responder,
    questions: Sequence[Question],
    folder: Path,
    identity: dict[str, Any],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[list[Answered], dict[str, str]]:
    """Return every question with its answer, and the questions that failed with their reasons.

    Answers are written to `folder` as they come (resumable_lines.py).
    """
    engine, rows = responder.opened.own_frames, responder.rows
    identity = identity | {"prompt": prompt_identity(engine.config.prompt)}

    def lines_from(positions: range, batches: int) -> Iterator[list[str]]:
        filler = engine.builder.build(FILLER)
        answerer = Answerer(engine, responder.opened.rollout_weights, rows, filler)
        for batch in range(batches):
            chosen = positions[batch * rows : (batch + 1) * rows]
            yield _lines(engine.builder, answerer, [questions[position] for position in chosen])

    path = write_lines(folder, identity, len(questions), rows, lines_from, progress)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    answered = [
        Answered(question, record.get("answer"))
        for question, record in zip(questions, records, strict=True)
    ]
    return answered, {
        record["name"]: record["skipped"] for record in records if "skipped" in record
    }


def _lines(builder: PromptBuilder, answerer: Answerer, questions: Sequence[Question]) -> list[str]:
    prompts: dict[int, Prompt] = {}
    faults: dict[int, str] = {}
    for number, question in enumerate(questions):
        try:
            prompts[number] = _prompt(builder, question)
        except UserError as error:
            faults[number] = str(error)
    texts = dict(
        zip(prompts, (done.text for done in answerer(list(prompts.values()))), strict=True)
    )
    records = [
        {"name": question.name}
        | ({"answer": texts[number]} if number in texts else {"skipped": faults[number]})
        for number, question in enumerate(questions)
    ]
    return [json_line(record) for record in records]


def _prompt(builder: PromptBuilder, question: Question) -> Prompt:
    content = [{"type": "image"}, {"type": "text", "text": request(question)}]
    return builder.compose(
        question.where, [{"role": "user", "content": content}], [question.image()]
    )

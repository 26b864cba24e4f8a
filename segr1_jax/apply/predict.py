"""`segr1 predict`: masks, overlays and JSON for images."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from segr1_jax.answer import sam_prompts
from segr1_jax.apply.opened import open_policy
from segr1_jax.data.images import open_image
from segr1_jax.data.sources import open_source
from segr1_jax.files import write_atomically
from segr1_jax.judge import AnswerText, Judged
from segr1_jax.reward.client import RewardClient
from segr1_jax.train.config import RunConfig
from segr1_jax.train.held_out import Answerer, scorer_of
from segr1_jax.types import Example
from segr1_jax.viz import overlay, png


def run_predict(
    config: RunConfig, source: Path, out: Path, *, images: Sequence[Path] = (), instruction: str | None = None, count: int = 4
) -> None:
    """Write `<number>_<stem>.mask.png` (0 and 255, native size), `.overlay.png` and `.json` for each image.

    Without `images`, the first `count` held-out examples are used. Text that is no answer gives an empty mask and says so in the JSON.
    """
    opened = open_policy(config, source)
    engine = opened.engine
    out.mkdir(parents=True, exist_ok=True)
    examples = [_blank(example) for example in _examples(config, images, instruction, count)]
    with RewardClient(config.reward) as client:
        for start in range(0, len(examples), config.eval_batch):
            chunk = examples[start : start + config.eval_batch]
            prompts = [engine.builder.build(example) for example in chunk]
            answerer = Answerer(engine, opened.rollout_weights, config.eval_batch, prompts[0])
            texts = [AnswerText(example, done.text, done.finished) for example, done in zip(chunk, answerer(prompts), strict=True)]
            _, judged = scorer_of(engine, client).rows(texts)
            for item, result in zip(texts, judged, strict=True):
                _write(out, item, result)


def _examples(config: RunConfig, images: Sequence[Path], instruction: str | None, count: int) -> Iterator[Example]:
    if images:
        for number, path in enumerate(images):
            yield Example(id=number, name=path.stem, image=open_image(path), mask=None, instruction=instruction)
    else:
        source = open_source(config.eval_data)
        yield from (source[index] for index in range(min(count, len(source))))


def _blank(example: Example) -> Example:
    """A prediction has no ground truth; an empty one is sent along, and the scores against it are not used."""
    return dataclasses.replace(example, mask=np.zeros(example.image.shape[:2], bool))


def _write(out: Path, item: AnswerText, result: Judged) -> None:
    example, answer = item.example, result.answer
    prompts = sam_prompts(answer, example.frame) if answer else ()
    mask = example.mask if result.mask is None else result.mask
    record = {"name": example.name, "text": item.text, "status": result.reward.parse.value}
    record |= {"width": example.frame.width, "height": example.frame.height}
    record["prompts"] = [
        {
            "box": None if prompt.box is None else prompt.box.tolist(),
            "points": prompt.points.tolist(),
            "labels": prompt.labels.tolist(),
        }
        for prompt in prompts
    ]
    stem = f"{example.id:06d}_{Path(example.name).stem}"  # names may hold folders, and stems may repeat
    write_atomically(out / f"{stem}.mask.png", png(mask.astype(np.uint8) * 255))
    write_atomically(out / f"{stem}.overlay.png", png(overlay(example.image, mask, prompts)))
    write_atomically(out / f"{stem}.json", json.dumps(record, indent=2) + "\n")

"""The answers of the demo: one picture and one sentence at a time, with the files to download."""

import dataclasses
import functools
import json
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.common.drawing import overlay, png
from segr1_jax.data.images import open_image, upright_size
from segr1_jax.errors import UserError
from segr1_jax.infer.demo_examples import DemoExample, fitting_examples
from segr1_jax.infer.responder import Responder
from segr1_jax.metrics.predictions import QUARANTINED, as_records
from segr1_jax.metrics.status_meanings import meaning
from segr1_jax.runtime.initial_weights import Start
from segr1_jax.training.block_sampler import RolloutWeights
from segr1_jax.training.evaluation import answer_texts
from segr1_jax.types import Completion, Example, ParseStatus, Prompt

MOST_BYTES = 20 * 2**20  # of an upload
MOST_PIXELS = 40_000_000
LONGEST = 400  # characters of a sentence
KEPT_ANSWERS = 100  # the files of older ones are deleted


@dataclasses.dataclass(frozen=True)
class Shown:
    """One answer on the page; `files` are mask and record to download, if there is a mask."""

    text: str
    status: str
    picture: Path | None = None
    files: tuple[Path, ...] = ()


class Demo:
    """Answer one image at a time, with the sidecar and compiled programs kept between requests."""

    def __init__(self, responder: Responder, folder: Path):
        self._responder, self._folder = responder, folder
        self._greedy, self._lock, self._count = responder.answerer(), threading.Lock(), 0
        self._made: deque[Path] = deque()

    @property
    def start(self) -> Start:
        """The weights that answer."""
        return self._responder.opened.start

    def examples(self) -> list[DemoExample]:
        """Return the pictures to try whose prompts are short enough for this policy."""
        return fitting_examples(self._responder.opened.engine.builder)

    def answer(self, image: str | None, sentence: str, temperature: float) -> Shown:
        """Answer an upload; a fault of the upload or the question is shown and not raised."""
        with self._lock:
            self._count += 1
            try:
                return self._answer(_checked(image), _sentence(sentence), temperature)
            except UserError as error:
                return Shown("", str(error).replace(str(image), "image"))

    def _answer(self, path: Path, sentence: str | None, temperature: float) -> Shown:
        example = Example(self._count, "image", open_image(path), None, sentence)
        prompt = self._responder.opened.engine.builder.build(example)
        tempered = functools.partial(self._sampled, temperature=temperature)
        policy = self._greedy if temperature <= 0 else tempered
        (done,) = answer_texts(self._responder.client, policy, [(example, prompt)])
        (judged,) = self._responder.judge([done])
        if judged.mask is None:
            parsed = judged.reward.parse
            status = QUARANTINED if parsed is ParseStatus.OK else parsed.value
            return Shown(done.text, f"{status}: {meaning(status)}")
        folder = self._new_folder()
        prompts = sam_prompts(judged.answer, example.frame)
        contents = {
            "overlay.png": png(overlay(example.image, judged.mask, prompts)),
            "mask.png": png(judged.mask.astype(np.uint8) * 255),
        }
        contents["answer.json"] = answer_record(done.text, sentence, example, prompts).encode()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        share = f"{judged.mask.mean():.1%} of the image"
        return Shown(
            done.text,
            f"ok: the mask covers {share}",
            folder / "overlay.png",
            (folder / "mask.png", folder / "answer.json"),
        )

    def _new_folder(self) -> Path:
        self._made.append(Path(tempfile.mkdtemp(dir=self._folder)))
        if len(self._made) > KEPT_ANSWERS:
            shutil.rmtree(self._made.popleft())
        return self._made[-1]

    def _sampled(self, prompts: Sequence[Prompt], temperature: float) -> list[Completion]:
        engine = self._responder.opened.engine
        rows = self._responder.rows
        on_mesh = engine.put_prompts([*prompts, *[self._greedy.filler] * (rows - len(prompts))])
        key, positions = engine.rollout_key(self._count), engine.put_positions(range(rows))
        weights, chosen = self._responder.opened.rollout_weights, jnp.float32(temperature)
        samples = self._tempered(weights, on_mesh, key, positions, chosen)
        groups = engine.completions(samples, [0] * rows, 0)
        return [group[0] for group in groups][: len(prompts)]

    @functools.cached_property
    def _tempered(self):
        """Compiled sampler that takes the temperature as an argument: no value recompiles it."""
        engine = self._responder.opened.engine
        greedy = engine.answerer.sampler

        def sample(weights: RolloutWeights, prompts, key, positions, temperature):
            sampler = dataclasses.replace(greedy, temperature=temperature, greedy=False)
            return sampler.in_one_block(*weights, prompts, key, positions)

        return jax.jit(sample)


def answer_record(text: str, sentence: str | None, example: Example, prompts) -> str:
    """Return the downloadable record: text, instruction, size, prompts in native pixels."""
    record = {
        "answer": text,
        "instruction": sentence,
        "width": example.frame.width,
        "height": example.frame.height,
    }
    return (
        json.dumps(record | {"prompts": as_records(prompts)}, indent=1, ensure_ascii=False) + "\n"
    )


def _checked(image: str | None) -> Path:
    if image is None:
        raise UserError("image", expected="a picture", got="none", remedy="upload one first")
    path = Path(image)
    if path.stat().st_size > MOST_BYTES:
        got = f"{path.stat().st_size / 2**20:.0f} MB"
        raise UserError(
            "image",
            expected=f"at most {MOST_BYTES / 2**20:.0f} MB",
            got=got,
            remedy="send a smaller file",
        )
    width, height = upright_size(path, "image")
    if width * height > MOST_PIXELS:
        got = f"{width} x {height}"
        raise UserError(
            "image",
            expected=f"at most {MOST_PIXELS / 1e6:.0f} megapixels",
            got=got,
            remedy="send a smaller image",
        )
    return path


def _sentence(text: str) -> str | None:
    if len(text) > LONGEST:  # the page's own limit binds only those who use the page
        raise UserError(
            "sentence",
            expected=f"at most {LONGEST} characters",
            got=str(len(text)),
            remedy="shorten it",
        )
    return text.strip() or None

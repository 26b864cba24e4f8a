"""`segr1 demo`: a local page to upload an image, ask, and see reasoning, prompts and mask.

It needs the extra `demo`.
"""

import dataclasses
import functools
import json
import os
import shutil
import signal
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
from segr1_jax.common.optional_packages import optional_package
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.images import open_image, upright_size
from segr1_jax.errors import UserError
from segr1_jax.infer.responder import Responder, responding
from segr1_jax.metrics.predictions import as_records
from segr1_jax.training.block_sampler import RolloutWeights
from segr1_jax.training.evaluation import answer_texts
from segr1_jax.types import Completion, Example, ParseStatus, Prompt

HOST = "127.0.0.1"
MOST_BYTES = 20 * 2**20  # of an upload
MOST_PIXELS = 40_000_000
MOST_WAITING = 8  # queued requests; one is answered at a time
HOTTEST = 2.0
KEPT_S = 3600  # maximum age of an upload in seconds
KEPT_ANSWERS = 100  # the files of older ones are deleted
LONGEST = 400  # characters of a sentence


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
        status = judged.reward.parse
        if judged.mask is None:
            reason = (
                "the answer has no mask"
                if status is not ParseStatus.OK
                else "the mask could not be made"
            )
            return Shown(done.text, f"{reason} ({status.value})")
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
            remedy="send a smaller picture",
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


def build_page(demo: Demo):
    """Build the Gradio page, with system fonts.

    Texts of the policy are shown in a text field, never as HTML or Markdown.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gradio = optional_package("gradio", "demo")

    def asked(image, sentence, temperature):
        shown = demo.answer(image, sentence, temperature)
        return (
            shown.picture and str(shown.picture),
            shown.text,
            shown.status,
            [str(file) for file in shown.files] or None,
        )

    with gradio.Blocks(
        title="Seg-R1", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)
    ) as page:
        gradio.Markdown(
            "# Seg-R1\nUpload an image, say what to segment (or leave it empty for all primary "
            "objects), and ask."
        )
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(type="filepath", sources=["upload"], label="Image")
                # The uploaded file: Gradio would decode it, and say only "Error" if it cannot.
                image.preprocess = lambda payload: payload and payload.path
                sentence = gradio.Textbox(
                    label="What to segment", placeholder="the left cat", max_length=LONGEST
                )
                temperature = gradio.Slider(
                    0, HOTTEST, value=0, step=0.1, label="Temperature (0: the most likely answer)"
                )
                ask = gradio.Button("Ask", variant="primary")
            with gradio.Column():
                picture = gradio.Image(
                    type="filepath",
                    label="Mask, box and points",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                status = gradio.Textbox(label="Result", interactive=False)
                text = gradio.Textbox(label="Reasoning and answer", interactive=False, lines=4)
                files = gradio.Files(label="Mask and answer to download", interactive=False)
        ask.click(
            asked, [image, sentence, temperature], [picture, text, status, files], api_name=False
        )
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)


def run_demo(config: RunConfig, source: Path, port: int) -> None:
    """Serve the page on this machine until SIGTERM or Ctrl-C, then delete uploads and results."""
    with tempfile.TemporaryDirectory(prefix="segr1-demo-") as folder:
        # Gradio reads it at import; uploads would stay in its own folder after the end.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        gradio = optional_package("gradio", "demo")
        # Gradio closes the server at a KeyboardInterrupt; SIGTERM would end the process at once.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with responding(config, source) as responder:
            page = build_page(Demo(responder, Path(folder)))
            theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
            try:
                page.launch(
                    server_name=HOST,
                    server_port=port,
                    share=False,
                    max_file_size=MOST_BYTES,
                    allowed_paths=[folder],
                    theme=theme,
                    footer_links=[],
                )
            except KeyboardInterrupt:
                # Gradio's own handler is not there yet right after the server has started.
                page.close()

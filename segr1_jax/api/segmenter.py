"""A trained policy in Python: images and sentences in, masks with their reasoning out.

Shape legend: H W image in pixels; N boxes; K points.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.api.closing import Closing
from segr1_jax.api.pictures import Picture, as_image
from segr1_jax.api.runtime import prepare
from segr1_jax.common.drawing import overlay, png
from segr1_jax.config.checks import check_reward_paths
from segr1_jax.config.loading import load_config, override
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.infer.responder import Responder, responding
from segr1_jax.metrics.predictions import QUARANTINED
from segr1_jax.reward.judging import AnswerText, Judged
from segr1_jax.runtime.mesh import mesh_shape
from segr1_jax.training.evaluation import answer_texts
from segr1_jax.types import Example, ParseStatus, SamPrompt

CONFIG, SETTINGS = "config.yaml", "segment.json"  # of a run, of an export
# Keys of a configuration and the settings of an export that have their values.
KEPT = {
    "prompt.task": "task",
    "prompt.frame": "frame",
    "eval_max_tokens": "max_new_tokens",
    "reward.postprocessing": "postprocessing",
}


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Answer of a policy to an image. Coordinates are pixels of the image.

    Attributes:
        image: the image as the policy saw it, upright RGB.
        text: the complete text that the policy wrote.
        status: `ok`, or why there is no mask: a fault of the answer (types.ParseStatus), or
            `quarantined` where SAM2 could not make it.
        mask: union of the masks of all prompts; None unless the status is ok.
        prompts: boxes with their points, as SAM2 got them.
        thinking: the reasoning in the text; empty if the text did not parse.
    """

    image: UInt8[np.ndarray, "H W 3"]
    text: str
    status: str
    mask: Bool[np.ndarray, "H W"] | None = None
    prompts: tuple[SamPrompt, ...] = ()
    thinking: str = ""

    @property
    def boxes(self) -> Float[np.ndarray, "N 4"]:
        """Boxes as x1, y1, x2, y2."""
        found = [prompt.box for prompt in self.prompts if prompt.box is not None]
        return np.array(found, np.float32).reshape(-1, 4)

    @property
    def points(self) -> Float[np.ndarray, "K 2"]:
        """Points as x, y, those of the first prompt first."""
        return np.concatenate([np.zeros((0, 2), np.float32), *(p.points for p in self.prompts)])

    @property
    def labels(self) -> Int[np.ndarray, " K"]:
        """Label of each point: 1 on the object, 0 on the background."""
        return np.concatenate([np.zeros(0, np.int32), *(p.labels for p in self.prompts)])

    def overlay(self) -> Image.Image:
        """Return the image with mask, boxes and points drawn over it."""
        return Image.fromarray(overlay(self.image, self.mask, self.prompts))

    def _repr_png_(self) -> bytes:
        """Return the picture that a notebook shows."""
        return png(np.asarray(self.overlay()))


class Segmenter(Closing):
    """A policy with its SAM2 process, ready to answer until `close`. Made by `load`.

    with segr1_jax.load("runs/quickstart/grpo") as policy:
        result = policy.segment("photo.jpg", "the cup behind the laptop")
    """

    def __init__(self, responder: Responder, resources: contextlib.ExitStack):
        self._responder, self._resources = responder, resources
        self._answerer = responder.answerer()

    @overload
    def segment(self, image: Picture, instruction: str | None = None) -> Segmentation: ...

    @overload
    def segment(
        self,
        image: Sequence[Picture],
        instruction: str | Sequence[str | None] | None = None,
    ) -> list[Segmentation]: ...

    def segment(self, image, instruction=None):
        """Return the most likely answer to an image, or a list of answers to a list of images.

        Args:
            image: a path, an image of Pillow, or an RGB array, uint8 (H, W, 3); or a list of them.
            instruction: the sentence that selects the object, None for all primary objects; for a
                list of images also a list of as many.

        Raises:
            UserError: an image cannot be read, or the lists differ in length.
        """
        if not isinstance(image, list | tuple):
            (result,) = self._results([image], [instruction])
            return result
        many = isinstance(instruction, list | tuple)
        instructions = list(instruction) if many else [instruction] * len(image)
        if len(instructions) != len(image):
            raise UserError(
                "instruction",
                expected=f"one for each of the {len(image)} images",
                got=str(len(instructions)),
                remedy="pass lists of the same length, or one instruction for all",
            )
        return list(self._results(image, instructions))

    def close(self) -> None:
        """End the process of SAM2. A second call does nothing."""
        self._resources.close()

    def _results(
        self, images: Sequence[Picture], instructions: Sequence[str | None]
    ) -> Iterator[Segmentation]:
        """Yield the answers; images of one batch are in memory at a time."""
        pairs = zip(images, instructions, strict=True)
        build = self._responder.opened.engine.builder.build
        while some := list(itertools.islice(pairs, self._responder.rows)):
            examples = [
                Example(number, "image", as_image(image), None, sentence)
                for number, (image, sentence) in enumerate(some)
            ]
            asked = [(example, build(example)) for example in examples]
            texts = answer_texts(self._responder.client, self._answerer, asked)
            yield from map(_segmentation, texts, self._responder.judge(texts))


def load(source: str | os.PathLike, overrides: Sequence[str] = (), *, batch: int = 1) -> Segmenter:
    """Load a policy and start the SAM2 process that makes its masks.

    Call it before other uses of JAX: on a GPU, it leaves SAM2 its share of the memory.

    Args:
        source: a run directory, which answers with its newest checkpoint, an export, or
            ORG/NAME[@revision] on the Hugging Face Hub.
        overrides: `key=value`, as on the command line, such as `reward.device=cuda`. For a
            directory that segr1_jax did not write, they say which SAM2 to use (`reward.sam2`) and
            how large a frame is (`prompt.frame`).
        batch: images that are answered at a time, rounded up to a multiple of the devices.

    Raises:
        UserError: `source` holds no policy, or a key or file cannot be used.
    """
    from segr1_jax.runtime.hub_files import local_source, with_local_files

    directory = local_source(Path(source), "source")
    config = _config_of(directory, overrides)
    check_reward_paths(config.reward)
    prepare(config)
    config = with_local_files(config, ["reward"])
    resources = contextlib.ExitStack()
    rows = _rows(config, batch)
    config = dataclasses.replace(config, batch=rows, micro_batches=1, eval_batch=rows)
    return Segmenter(resources.enter_context(responding(config, directory)), resources)


def _config_of(directory: Path, overrides: Sequence[str]) -> RunConfig:
    """Return the configuration of a run, or the settings that an export has kept of it."""
    if (directory / CONFIG).is_file():
        return load_config(directory, overrides)
    kept = directory / SETTINGS
    settings = _read_settings(kept) if kept.is_file() else {}
    config = override(override(RunConfig(), [*_kept_overrides(settings)]), overrides)
    if not (settings.get("nano", True) or config.reward.sam2 or config.reward.sam2_config):
        raise UserError(
            str(kept),
            expected="a SAM2 for a policy that was trained with one of local files",
            got="none",
            remedy="name it in the overrides: reward.sam2=facebook/sam2.1-hiera-large, or "
            "reward.sam2_config and reward.sam2_checkpoint",
        )
    return config


def _read_settings(file: Path) -> Mapping[str, Any]:
    try:
        settings = json.loads(file.read_text())
        if not isinstance(settings, dict):
            raise ValueError(f"a {type(settings).__name__}")
    except (OSError, ValueError) as error:
        raise UserError(
            str(file),
            expected="the settings that segr1 export wrote",
            got=str(error),
            remedy="export the run again",
        ) from error
    return settings


def _kept_overrides(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings of an export (export/model_card.py) as `key=value`."""
    for key, name in KEPT.items():
        if name in settings:
            yield f"{key}={settings[name]}"
    if settings.get("sam2"):
        yield f"reward.sam2={settings['sam2'][0]}"


def _rows(config: RunConfig, batch: int) -> int:
    """Return the least multiple of the shards of a batch that is at least `batch`."""
    import jax

    data, fsdp, _ = mesh_shape(config.mesh, len(jax.devices()))
    shards = data * fsdp
    return max(1, -(-batch // shards)) * shards


def _segmentation(text: AnswerText, judged: Judged) -> Segmentation:
    example, answer, status = text.example, judged.answer, judged.reward.parse.value
    if judged.reward.parse is ParseStatus.OK and judged.mask is None:
        status = QUARANTINED
    prompts = sam_prompts(answer, example.frame) if answer else ()
    thinking = answer.thinking if answer else ""
    return Segmentation(example.image, text.text, status, judged.mask, prompts, thinking)

"""Configuration of prompts: their wording, and the size of images."""

from collections.abc import Mapping
from dataclasses import dataclass

from segr1_jax.common.config_fields import knob, require_range
from segr1_jax.errors import UserError
from segr1_jax.prompt.texts import Task, parse_texts


@dataclass(frozen=True)
class PromptConfig:
    """Prompt text, and the frame that images are resized to: a fixed square or the image's own."""

    task: Task = knob(
        "rl",
        "which prompt text: rl (think, boxes, points), prerl (points only), sft (the paper's "
        "cold-start wording)",
    )
    texts: dict = knob(
        {},
        "YAML file of other prompt texts (segr1_jax/prompt/texts.py); its content becomes part of "
        "the configuration. Empty = those of the policy directory if it has some, else our own",
        parse=parse_texts,
    )
    frame: int = knob(
        756,
        "side in pixels of the square model frame, a multiple of patch * merge (28); "
        "0 = each image's own shape (not for training)",
    )
    min_pixels: int = knob(56 * 56, "frame 0: smallest area of a resized image")
    max_pixels: int = knob(
        756 * 756, "frame 0: largest area of a resized image; one image token per 28 x 28 of it"
    )
    max_tokens: int = knob(
        1152,
        "longest prompt in tokens; longer ones are rejected when built, never cut. A training run "
        "on files computes only as many as its longest prompt has",
    )

    def __post_init__(self):
        require_texts(self.texts, self.task)
        if self.frame:
            require_range("prompt.frame", self.frame, 28)
        require_range("prompt.min_pixels", self.min_pixels, 1)
        require_range("prompt.max_pixels", self.max_pixels, max(28 * 28, self.min_pixels))
        require_range("prompt.max_tokens", self.max_tokens, 8)


def require_texts(texts: Mapping[str, Mapping[str, str]], task: str) -> None:
    """Raise UserError if there are texts, but none for `task`."""
    if texts and task not in texts:
        raise UserError(
            "prompt.texts",
            expected=f"texts of the task {task}",
            got=f"those of {', '.join(texts)}",
            remedy=f"add a section {task}, or choose another prompt.task (or sft.second_task)",
        )

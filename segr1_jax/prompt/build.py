"""Example -> Prompt: wording, tokens, positions and windowed patches for one fixed frame."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from segr1_jax.errors import UserError
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.pixels import patchify, require_frame, stretch
from segr1_jax.prompt.positions import mrope_positions
from segr1_jax.prompt.text import chat_text, messages
from segr1_jax.prompt.tokenizer import END_OF_TURN, Tokenizer
from segr1_jax.prompt.vision import VisionSettings, read_vision_settings
from segr1_jax.prompt.windows import window_layout
from segr1_jax.types import Example, Frame, Prompt


class PromptBuilder:
    """Builds prompts with the tokenizer and vision settings of one policy. Stateless after construction, so threads may share it.

    Example:
        >>> builder = PromptBuilder.from_directory("tiny", PromptConfig(frame=168))  # doctest: +SKIP
        >>> builder.build(example).token_ids.shape  # doctest: +SKIP
        (63,)
    """

    def __init__(self, tokenizer: Tokenizer, vision: VisionSettings, config: PromptConfig):
        require_frame(config.frame, config.frame, vision)
        self.tokenizer, self.vision, self.config = tokenizer, vision, config
        self.frame = Frame(width=config.frame, height=config.frame)

    @classmethod
    def from_directory(cls, directory: str | Path, config: PromptConfig) -> "PromptBuilder":
        """A builder for the policy directory `directory`. Raises UserError for missing or foreign files."""
        return cls(Tokenizer(directory), read_vision_settings(directory), config)

    def build(self, example: Example) -> Prompt:
        """The prompt for `example`: its image stretched to the frame, its sentence (or "all primary objects") in the task's wording.

        Raises UserError for a prompt longer than `max_tokens` (never cut: image slots would lose their pixels) and for a sentence
        that spells out a special token.
        """
        height, width = self.frame.height, self.frame.width
        token_ids_P = self._token_ids(example)
        grid = (height // self.vision.unit, width // self.vision.unit)
        positions_3P, next_position = mrope_positions(token_ids_P, [grid], self.tokenizer.image_pad_id)

        layout = window_layout(height, width, self.vision)
        patches_NC = patchify(stretch(example.image, height, width), self.vision)
        patches_WSC = np.where(layout.mask[..., None], patches_NC[layout.patch_index], np.float32(0))
        image_index_P = np.full(len(token_ids_P), -1, np.int32)
        image_index_P[token_ids_P == self.tokenizer.image_pad_id] = layout.unit_row
        return Prompt(
            example_id=example.id,
            token_ids=token_ids_P,
            positions=positions_3P,
            next_position=next_position,
            image_index=image_index_P,
            patches=patches_WSC,
            patch_positions=layout.positions,
            patch_mask=layout.mask,
            window_image=np.zeros(len(layout.mask), np.int32),
            model_frame=self.frame,
            native_frame=example.frame,
        )

    def encode_answer(self, text: str) -> Int[np.ndarray, " T"]:
        """Token ids (int32) of an answer as the policy should have written it, end-of-turn included."""
        return self.tokenizer.encode(text + END_OF_TURN)

    def _token_ids(self, example: Example) -> Int[np.ndarray, " P"]:
        sentence = example.instruction or ""
        if special := next((token for token in self.tokenizer.special_tokens if token in sentence), None):
            raise UserError(f"{example.name}: instruction", expected="plain text", got=f"the special token {special}", remedy="remove it")
        image_tokens = self.vision.image_tokens(self.frame.height, self.frame.width)
        token_ids = self.tokenizer.encode(chat_text(messages(self.config.task, example.instruction), image_tokens))
        if len(token_ids) > self.config.max_tokens:
            raise UserError(
                f"{example.name}: prompt",
                expected=f"at most prompt.max_tokens = {self.config.max_tokens} tokens",
                got=f"{len(token_ids)}, of them {image_tokens} for the image",
                remedy="raise prompt.max_tokens, shorten the sentence or lower prompt.frame",
            )
        return token_ids

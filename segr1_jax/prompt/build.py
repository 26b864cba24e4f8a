"""Construction of a Prompt from an example or a conversation.

It joins wording, tokens, positions and windowed patches. Shape legend: P prompt tokens; T answer
tokens.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from segr1_jax.errors import UserError
from segr1_jax.prompt.config import PromptConfig, require_texts
from segr1_jax.prompt.patches import model_frame, normalized_levels, require_frame, stretch
from segr1_jax.prompt.positions import image_runs, mrope_positions
from segr1_jax.prompt.processor_settings import VisionSettings, read_vision_settings
from segr1_jax.prompt.texts import Texts, exported_texts
from segr1_jax.prompt.tokenizer import END_OF_TURN, Tokenizer
from segr1_jax.prompt.windows import join_windows
from segr1_jax.prompt.wording import TEXTS, chat_text, messages, parts
from segr1_jax.types import Example, Frame, Prompt


class PromptBuilder:
    """Builder of prompts with the tokenizer and the vision settings of one policy.

    It has no state after construction, so threads may share it.

    Example:
        >>> config = PromptConfig(frame=168)
        >>> builder = PromptBuilder.from_directory("tiny", config)  # doctest: +SKIP
        >>> builder.build(example).token_ids.shape  # doctest: +SKIP
        (63,)
    """

    def __init__(self, tokenizer: Tokenizer, vision: VisionSettings, config: PromptConfig):
        if config.frame:
            require_frame(config.frame, config.frame, vision)
        self._texts = config.texts or TEXTS
        _require_plain(self._texts, tokenizer)
        self.tokenizer = tokenizer
        self.vision = vision
        self.config = config

    @classmethod
    def from_directory(
        cls, directory: str | Path, config: PromptConfig, inherited: Texts | None = None
    ) -> "PromptBuilder":
        """Return a builder for a policy directory.

        If `config` has no texts, those of the run that made the weights are used (`inherited`), or
        else those of the directory.

        Raises UserError for missing files, for files of another model and for texts that lack the
        task.
        """
        config = dataclasses.replace(
            config, texts=config.texts or inherited or exported_texts(directory)
        )
        return cls(Tokenizer(directory), read_vision_settings(directory), config)

    def messages(self, instruction: str | None, task: str = "") -> list[dict]:
        """Return the conversation of a prompt. `task` defaults to the configuration's.

        Raises UserError if the texts of the prompts lack the task.
        """
        task = task or self.config.task
        require_texts(self._texts, task)
        return messages(task, instruction, self._texts)

    @property
    def prompt_bytes(self) -> int:
        """Size in bytes of the patches of the largest image."""
        return 3 * (self.config.frame**2 or self.config.max_pixels)

    def frame_of(self, example: Example) -> Frame:
        """Return the frame of answers about `example`: the fixed one, or the image's own."""
        return model_frame(example.frame, self.config, self.vision.unit, example.name)

    def length(self, instruction: str | None, task: str) -> int:
        """Return the number of tokens of a prompt about one image of the fixed frame."""
        # The tokenizer splits texts at image tokens, so each of them adds exactly one token.
        alone = self.tokenizer.encode(chat_text(self.messages(instruction, task), [1]))
        return len(alone) - 1 + (self.config.frame // self.vision.unit) ** 2

    def build(self, example: Example, task: str = "") -> Prompt:
        """Build the prompt for `example`: its image and its instruction in the wording of `task`.

        Without an instruction the prompt asks for all primary objects. `task` defaults to the
        configuration's. Raises UserError as `compose` does.
        """
        conversation = self.messages(example.instruction, task)
        return self.compose(example.name, conversation, [example.image], example_id=example.id)

    def compose(
        self,
        name: str,
        conversation: list[dict],
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        *,
        example_id: int = 0,
    ) -> Prompt:
        """Build the prompt for a conversation in the message format of chat templates.

        `images` are in the order of the conversation's image parts. The frames of the prompt are
        those of its last image, or a single pixel where there is none. Errors name the sample by
        `name`.

        Raises:
            UserError: a text contains a special token; the number of images is not that of the
                conversation's image parts; the prompt is longer than `max_tokens` (it is never
                cut, because image slots would lose their pixels); the image tokens do not fit the
                images' grids.
        """
        self._check_texts(name, conversation, len(images))
        natives = [Frame(width=image.shape[1], height=image.shape[0]) for image in images]
        unit, image_pad = self.vision.unit, self.tokenizer.image_pad_id
        frames = [model_frame(native, self.config, unit, name) for native in natives]
        grids = [(frame.height // unit, frame.width // unit) for frame in frames]
        image_tokens = [rows * columns for rows, columns in grids]
        token_ids_P = self._token_ids(name, conversation, image_tokens)
        positions_3P, next_position = mrope_positions(token_ids_P, grids, image_pad)

        pairs = zip(images, frames, strict=True)
        resized = [stretch(image, frame.height, frame.width) for image, frame in pairs]
        windows = join_windows(resized, self.vision)
        # Image tokens and unit_row have the same order: units in raster order, image after image.
        image_index_P = np.full(len(token_ids_P), -1, np.int32)
        image_index_P[token_ids_P == image_pad] = windows.unit_row
        return Prompt(
            example_id=example_id,
            token_ids=token_ids_P,
            positions=positions_3P,
            next_position=next_position,
            image_index=image_index_P,
            patches=windows.patches,
            levels=normalized_levels(self.vision),
            patch_positions=windows.patch_positions,
            patch_mask=windows.patch_mask,
            window_image=windows.window_image,
            model_frame=frames[-1] if frames else Frame(1, 1),
            native_frame=natives[-1] if natives else Frame(1, 1),
        )

    def encode_answer(self, text: str) -> Int[np.ndarray, " T"]:
        """Return the token ids (int32) of a target answer, with the end-of-turn token."""
        return self.tokenizer.encode(text + END_OF_TURN)

    def _check_texts(self, name: str, conversation: list[dict], images: int) -> None:
        texts = list(parts(conversation))
        if texts.count(None) != images:
            expected, got = f"{texts.count(None)} images, as in the conversation", str(images)
            raise UserError(
                f"{name}: images",
                expected=expected,
                got=got,
                remedy="give one image for each image part",
            )
        joined = "\n".join(text for text in texts if text is not None)
        specials = (token for token in self.tokenizer.special_tokens if token in joined)
        if special := next(specials, None):
            raise UserError(
                f"{name}: instruction",
                expected="plain text",
                got=f"the special token {special}",
                remedy="remove it",
            )

    def _token_ids(
        self, name: str, conversation: list[dict], image_tokens: list[int]
    ) -> Int[np.ndarray, " P"]:
        """Tokenize the conversation; `image_tokens` is the number of image tokens of each image.

        Raises UserError for a prompt that is too long or has other runs of image tokens.
        """
        token_ids_P = self.tokenizer.encode(chat_text(conversation, image_tokens))
        if len(token_ids_P) > self.config.max_tokens:
            images = "images" if len(image_tokens) > 1 else "image"
            raise UserError(
                f"{name}: prompt",
                expected=f"at most prompt.max_tokens = {self.config.max_tokens} tokens",
                got=f"{len(token_ids_P)}, of them {sum(image_tokens)} for the {images}",
                remedy="raise prompt.max_tokens, shorten the sentence or lower prompt.frame "
                "(with frame 0, prompt.max_pixels)",
            )
        run_lengths = (image_runs(token_ids_P, self.tokenizer.image_pad_id) @ [-1, 1]).tolist()
        if run_lengths != image_tokens:
            question = " ".join(text for text in parts(conversation[-1:]) if text is not None)
            raise UserError(
                f"{name}: prompt",
                expected=f"runs of {image_tokens} image tokens to fit the grids of the images",
                got=f"{run_lengths} in {question!r}",
                remedy="remove image tokens from the sentence; "
                "use the tokenizer of a Qwen2.5-VL checkpoint",
            )
        return token_ids_P


def _require_plain(texts: Texts, tokenizer: Tokenizer) -> None:
    """Raise UserError if a text of the prompts spells a special token."""
    joined = "\n".join(text for own in texts.values() for text in own.values())
    if special := next((token for token in tokenizer.special_tokens if token in joined), None):
        raise UserError(
            "prompt.texts",
            expected="texts without special tokens, which the chat template adds",
            got=special,
            remedy="remove it, or write {image}",
        )

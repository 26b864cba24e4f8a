"""Hugging Face fast tokenizer without torch: text to ids and back, and the special ids by name."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int

from segr1_jax.errors import UserError

END_OF_TURN = "<|im_end|>"
PAD = "<|endoftext|>"
VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


class Tokenizer:
    """Tokenizer from a policy directory (`tokenizer.json`).

    Raises UserError if a file is missing or unreadable, or lacks one of the tokens below.

    Attributes:
        end_ids: ids that end an answer. The first is that of END_OF_TURN, which ends every target
            answer; the others are those that `generation_config.json` names, if it exists.
        ids: all ids of the tokenizer. The vocabulary of a policy may be larger.
        image_pad_id: id that marks image slots.
        special_tokens: texts of the special tokens.
    """

    def __init__(self, directory: str | Path):
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                str(path),
                expected="a fast tokenizer file",
                got="no such file",
                remedy="point policy.path at a Hugging Face directory",
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        # tokenizers raises a bare Exception for every malformed file.
        except Exception as error:
            raise UserError(
                str(path),
                expected="a fast tokenizer file",
                got=str(error),
                remedy="copy the file again",
            ) from error
        self._path = path
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.ids = frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())
        end = self._special(END_OF_TURN)
        others = _end_ids(Path(directory) / "generation_config.json", self.ids)
        self.end_ids = (end, *(other for other in others if other != end))
        self.image_pad_id = self._special("<|image_pad|>")
        self.special_tokens = tuple(
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special
        )

    def encode(self, text: str) -> Int[np.ndarray, " P"]:
        """Return the token ids (int32) of `text`.

        Special tokens spelled out in the text become their ids; none are added.
        """
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Int[np.ndarray, " T"]) -> str:
        """Return the text of `ids` without the tokens that end an answer.

        Any other special token stays visible in the text, so that the parser rejects the answer.
        """
        return self._tokenizer.decode(
            [int(i) for i in ids if i not in self.end_ids], skip_special_tokens=False
        )

    def _special(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise UserError(
                str(self._path),
                expected=f"the special token {token}",
                got="none",
                remedy="use a Qwen2.5-VL tokenizer",
            )
        return index


def _end_ids(file: Path, known: Collection[int]) -> list[int]:
    """Return the ids of `eos_token_id` of a generation config; [] where it is missing."""
    if not file.is_file():
        return []
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        ends = [] if value is None else value if isinstance(value, list) else [value]
        if all(type(end) is int and end in known for end in ends):
            return ends
        got = f"eos_token_id {value!r}"
    except (OSError, ValueError, AttributeError) as error:
        got = str(error)
    raise UserError(
        str(file),
        expected="JSON with ids of the tokenizer",
        got=got,
        remedy="restore the checkpoint's own file",
    )

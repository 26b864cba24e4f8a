"""A thin, torch-free view of a Hugging Face fast tokenizer: text to ids and back, and the special ids by name."""

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
    """The tokenizer of a policy directory (`tokenizer.json`).

    `eos_id` ends a turn, `image_pad_id` marks image slots. Raises UserError where the file is missing, unreadable or lacks one of them.
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
        except Exception as error:  # tokenizers raises bare Exception for every malformed file
            raise UserError(
                str(path),
                expected="a fast tokenizer file",
                got=str(error),
                remedy="copy the file again",
            ) from error
        self._path = path
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.eos_id = self._special(END_OF_TURN)
        self.image_pad_id = self._special("<|image_pad|>")
        self.special_tokens = tuple(
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special
        )
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> Int[np.ndarray, " P"]:
        """Token ids (int32) of `text`; special tokens written out in it become their ids, none are added."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Int[np.ndarray, " T"]) -> str:
        """Text of `ids`. The end of a turn is dropped; any other special token shows, for no answer may hold one."""
        return self._tokenizer.decode(
            [int(i) for i in ids if i != self.eos_id], skip_special_tokens=False
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

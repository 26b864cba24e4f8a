"""A thin, torch-free view of a Hugging Face fast tokenizer: text to ids and back, and the special ids by name."""

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
    """The tokenizer of a policy directory (`tokenizer.json`).

    `end_ids` end an answer: that of END_OF_TURN, which ends the answers that we teach, then what else
    `generation_config.json`, where there is one, names. `ids` are all that stand for text, and
    `image_pad_id` marks image slots. Raises UserError where a file is missing, unreadable or lacks
    one of them.
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
        """Token ids (int32) of `text`; special tokens written out in it become their ids, none are added."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Int[np.ndarray, " T"]) -> str:
        """Text of `ids`. What ends an answer is dropped; any other special token shows, for no answer may hold one."""
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
    """`eos_token_id` of a generation config, a number or a list of them; none where it has none."""
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        ends = [] if found is None else found if isinstance(found, list) else [found]
        if all(type(end) is int and end in known for end in ends):
            return ends
        got = f"eos_token_id {found!r}"
    except (OSError, ValueError, AttributeError) as error:
        got = str(error)
    expected, remedy = "JSON with ids of the tokenizer", "restore the checkpoint's own file"
    raise UserError(str(file), expected=expected, got=got, remedy=remedy)

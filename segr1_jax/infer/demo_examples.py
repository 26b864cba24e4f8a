"""Pictures that come with the demo: synthetic ones, with and without a sentence.

`examples.json` has the sentence of each file, "" for all primary objects. A file is LEVEL_INDEX of
data/synthetic.py with the seed SEED, which no configuration uses.
"""

import json
from pathlib import Path
from typing import NamedTuple

from segr1_jax.data.images import open_image
from segr1_jax.errors import UserError
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.types import Example

SEED = 11
ASSETS = Path(__file__).parent / "assets"


class DemoExample(NamedTuple):
    """A picture to try, and what to ask about it."""

    image: Path
    sentence: str


def examples() -> list[DemoExample]:
    """Return the pictures that come with the demo."""
    sentences = json.loads((ASSETS / "examples.json").read_text(encoding="utf-8"))
    return [DemoExample(ASSETS / name, sentence) for name, sentence in sentences.items()]


def fitting_examples(builder: PromptBuilder) -> list[DemoExample]:
    """Return the pictures whose prompts have at most prompt.max_tokens tokens.

    Runs without sentences set it so low that a prompt with a sentence is rejected.
    """
    return [example for example in examples() if _fits(builder, example)]


def _fits(builder: PromptBuilder, example: DemoExample) -> bool:
    image, sentence = open_image(example.image), example.sentence or None
    try:
        builder.build(Example(0, example.image.stem, image, None, sentence))
    except UserError:
        return False
    return True

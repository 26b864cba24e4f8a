"""Tokenizer of the tiny policy: few, long tokens, which keep prompts and answers short on a CPU.

Every integer of the frame is one token, and so is every piece of prompt and answer between two
numbers, lines or special tokens (`]</bbox>, <points>[[`). Sentences about objects are tokenized by
byte-level BPE trained on a fixed corpus.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from segr1_jax.answer.grammar import render
from segr1_jax.answer.targets import thinking_lines
from segr1_jax.prompt.texts import TASKS
from segr1_jax.prompt.tokenizer import END_OF_TURN, PAD, VISION_TOKENS
from segr1_jax.prompt.wording import chat_text, messages
from segr1_jax.types import Answer, Frame

SPECIAL_TOKENS = (PAD, "<|im_start|>", END_OF_TURN, *VISION_TOKENS)
VOCABULARY_MULTIPLE = 64  # keeps the embedding divisible over any mesh
BPE_SIZE = 400  # 256 bytes and the most common word pieces of SENTENCES
COLORS = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "white",
    "black",
    "brown",
    "grey",
    "pink",
)
RELATIONS = (
    "leftmost",
    "rightmost",
    "topmost",
    "bottommost",
    "largest",
    "smallest",
    "small",
    "large",
    "left",
    "right",
)
SENTENCES = tuple(
    f"Identify and segment the {word} {noun}"
    for word in (*COLORS, *RELATIONS)
    for noun in ("object", "one")
)


def tiny_tokenizer(frame: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer for frames of up to `frame` pixels.

    The integers 0..`frame` and the fixed phrases of prompts and answers are single tokens.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "merged_with_previous"),
            pre_tokenizers.Split(Regex(r"(?<![A-Za-z0-9])[0-9]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary, merges = _train_bpe()
    phrases = (piece for text in _fixed_texts() for piece, _ in splitter.pre_tokenize_str(text))
    for token in (*map(str, range(frame + 1)), *phrases):
        vocabulary.setdefault(token, len(vocabulary))
    while (len(vocabulary) + len(SPECIAL_TOKENS)) % VOCABULARY_MULTIPLE:
        vocabulary[f"<unused{len(vocabulary)}>"] = len(vocabulary)
    # ignore_merges: a piece that is a token as a whole becomes that token.
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _train_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = BpeTrainer(
        vocab_size=BPE_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(SENTENCES, trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    return vocabulary, [tuple(merge) for merge in model["merges"]]


def _fixed_texts() -> list[str]:
    """Return the prompts of every task and answers of every kind, split at special tokens."""
    frame = Frame(9, 9)
    texts = [
        chat_text(messages(task, instruction), image_tokens=[0])
        for task in TASKS
        for instruction in (None, "")
    ]
    for line in thinking_lines():
        answer = Answer(
            thinking=line,
            boxes=((1, 2, 3, 4),) * 2,
            points=((5, 6), (7, 8)),
            labels=(1, 0),
            frame=frame,
        )
        texts += [render(answer, task=task) for task in ("rl", "prerl")]
    for token in SPECIAL_TOKENS:
        texts = [piece for text in texts for piece in text.split(token)]
    return list(dict.fromkeys(filter(None, texts)))

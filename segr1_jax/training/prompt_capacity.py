"""The number of prompt tokens that the programs of a run compute."""

import dataclasses
import sys
from collections.abc import Iterable

from segr1_jax.config.schema import RunConfig
from segr1_jax.data.file_entries import FileSource
from segr1_jax.data.sources import Source
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.runtime.processes import is_first
from segr1_jax.training.micro_batches import MULTIPLE


def fit_prompts(config: RunConfig, builder: PromptBuilder, sources: Iterable[Source]) -> RunConfig:
    """Return the configuration with prompt.max_tokens lowered to what the sources need."""
    second = {config.sft.second_task} - {""} if config.stage == "sft" else set()
    lengths = [_lengths(builder, source, {config.prompt.task} | second) for source in sources]
    for task in second:
        # Otherwise every second sample would be a bad one.
        builder.messages(None, task)
    # Evaluation fills its last batch with an example without an instruction.
    filler, most = builder.length(None, config.prompt.task), config.prompt.max_tokens
    capacity = most if None in lengths else prompt_capacity({filler}.union(*lengths), most)
    if capacity < most and is_first():
        what = f"prompts: {capacity} tokens suffice for every sample (prompt.max_tokens={most})"
        print(what, file=sys.stderr, flush=True)
    return dataclasses.replace(
        config, prompt=dataclasses.replace(config.prompt, max_tokens=capacity)
    )


def prompt_capacity(lengths: Iterable[int], most: int) -> int:
    """Return the largest length, rounded up to a multiple of 64 and at most `most`.

    Lengths above `most` do not count: such prompts are bad samples.

    Example:
        >>> prompt_capacity([935, 960, 2000], 1152), prompt_capacity([100], 100)
        (960, 100)
    """
    longest = max((length for length in lengths if length <= most), default=most)
    return min(-(-longest // MULTIPLE) * MULTIPLE, most)


def _lengths(builder: PromptBuilder, source: Source, tasks: Iterable[str]) -> set[int] | None:
    """Return the lengths of the prompts about a source, read from its texts alone.

    None for a set that does not have its texts at hand.
    """
    if not isinstance(source, FileSource):
        return None
    texts = {entry.instruction for entry in source.entries}
    return {builder.length(text, task) for text in texts for task in tasks}

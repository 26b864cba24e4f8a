"""The prompt tokens that a run computes, from the texts of its sets."""

import dataclasses
from pathlib import Path

import pytest

from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.data.sources import SyntheticSource
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.training.prompt_capacity import fit_prompts

WORDS = "the small cup that stands behind the open laptop"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("capacity") / "tiny", seed=1, frame=84)


def source(*texts: str | None) -> FileSource:
    return FileSource([Entry(str(n), Path("x.png"), None, text) for n, text in enumerate(texts)])


def capacity(directory: Path, *sources, **prompt) -> tuple[int, PromptBuilder]:
    config = override(RunConfig(), ["prompt.frame=84", "prompt.max_tokens=1000"])
    config = dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, **prompt))
    builder = PromptBuilder.from_directory(directory, config.prompt)
    return fit_prompts(config, builder, sources).prompt.max_tokens, builder


def test_the_longest_text_of_both_sets_counts(directory, capsys):
    short, builder = capacity(directory, source(None), source(None))
    assert 0 <= short - builder.length(None, "rl") < 64
    long = " ".join([WORDS] * 4)
    longer, _ = capacity(directory, source(None), source("a cup", long))
    assert 0 <= longer - builder.length(long, "rl") < 64
    assert longer > short
    assert f"{longer} tokens suffice for every sample" in capsys.readouterr().err


def test_the_filler_of_evaluation_batches_counts(directory, monkeypatch):
    """It asks for all objects, in more words than the short sentences of a set may have."""
    config = override(RunConfig(), ["prompt.frame=84", "prompt.max_tokens=1000"])
    builder = PromptBuilder.from_directory(directory, config.prompt)
    monkeypatch.setattr(builder, "length", lambda text, task: 60 if text else 70)
    found = fit_prompts(config, builder, (source("a cup"), source("a hat")))
    assert found.prompt.max_tokens == 128


def test_texts_that_are_too_long_are_bad_samples(directory):
    most = capacity(directory, source(None))[0] + 3
    found, _ = capacity(directory, source(None, " ".join([WORDS] * 4)), max_tokens=most)
    assert found == most - 3


def test_sets_without_texts_at_hand_keep_all_tokens(directory):
    assert capacity(directory, SyntheticSource(DataConfig(size=84)))[0] == 1000

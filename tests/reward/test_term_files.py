"""Own terms of the reward in a configuration: entries, weights and files."""

from pathlib import Path

import numpy as np
import pytest

from segr1_jax.config.loading import dump_config, load_config
from segr1_jax.config.resume_rules import config_hash, refused_changes
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig, RewardWeights
from segr1_jax.reward.terms import Terms
from segr1_jax.types import Answer, Example, Frame

ROOT = Path(__file__).parents[2]
ANSWER = Answer("a", ((1, 2, 5, 6),), ((3, 4), (9, 9)), (1, 0), Frame(28, 28))
MASK = np.ones((8, 6), bool)
EXAMPLE = Example(3, "cat.png", np.zeros((8, 6, 3), np.uint8), MASK)


def value(reward: RewardConfig) -> float:
    return Terms(reward).own_values("", ANSWER, MASK, EXAMPLE)["mine"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reward.terms=[format,iuo]"], ("reward.terms", "'iuo'", "did you mean iou")),
        (["reward.terms=[format,3]"], ("reward.terms", "got 3")),
        (["reward.terms=[format,mine.py]"], ("'mine.py'", "mine.py:my_term")),
        (["reward.terms=[]"], ("at least one term",)),
        (["reward.terms=[iou,iou]"], ("iou twice",)),
        (["reward.terms=[a.py:t,b.py:t]", "reward.weights.t=1"], ("t twice",)),
        (["reward.terms=[a.py:iou]"], ("a.py:iou, whose name is that of a built-in",)),
        (["reward.terms=[iou,a.py:t]"], ("none for t", "reward.weights.t; 0 only logs")),
        (["reward.weights.iuo=1"], ("reward.weights", "got iuo", "did you mean iou")),
        (
            ["reward.terms=[format,s_measure]", "reward.weights.iou=0.9"],
            ("reward.weights", "got iou=0.9", "add iou to reward.terms"),
        ),
        (["reward.terms=[a.py:t]", "reward.weights.t=x"], ("reward.weights.t", "'x' (str)")),
        (
            [
                *("reward.terms=[a.py:t]", "reward.weights.t=1"),
                *("reward.legacy=true", "prompt.frame=756"),
            ],
            ("reward.terms", "got a.py:t", "reward.legacy=false"),
        ),
    ],
)
def test_wrong_entries_and_weights_are_named(tmp_path, overrides, words):
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "run.yaml", overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_weight_zero_may_stand_beside_a_term_left_out():
    reward = RewardConfig(terms=["format", "iou"], weights=RewardWeights(s_measure=0.0))
    assert reward.term_weights == {"format": 1.0, "iou": 0.7}


def test_a_configuration_with_own_terms_is_read_back(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(text): return 1.0\n")
    text = "reward: {terms: [iou, mine.py:mine], weights: {mine: 0.2, iou: 1}}\n"
    (tmp_path / "run.yaml").write_text(text)
    config = load_config(tmp_path / "run.yaml", ["reward.weights.mine=0.3"])
    assert config.reward.term_weights == {"iou": 1.0, "mine": 0.3}
    (tmp_path / "dumped.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "dumped.yaml") == config


def test_hashes_of_runs_without_later_keys_stay():
    """Hashes of c201f40, which had neither own terms, the Hub nor optimizer.first_moment."""
    shipped = load_config(ROOT / "configs/quickstart_grpo.yaml")
    assert config_hash(RunConfig()) == "bfdaf7c80895a66f"
    assert config_hash(shipped) == "4f9d3861517a644d"
    other = ["reward.terms=[format,iou]"]
    assert config_hash(load_config(ROOT / "configs/quickstart_grpo.yaml", other)) != config_hash(
        shipped
    )


def configured(folder: Path, source: str | None) -> RunConfig:
    if source is not None:
        (folder / "mine.py").write_text(source)
    text = "reward: {terms: [iou, mine.py:mine], weights: {mine: 1}}\n"
    (folder / "run.yaml").write_text(text)
    return load_config(folder / "run.yaml")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, ("reward.terms: mine.py", "no such file", "beside the configuration")),
        ("", ("mine.py:mine", "a function mine", "got none")),
        ("mine = 3\n", ("a function mine", "got int")),
        ("def mine(:\n", ("mine.py", "SyntaxError")),
        ("import no_such_module\n", ("mine.py", "no_such_module", "(line 1)")),
        ("x = 1\nx / 0\n", ("ZeroDivisionError", "(line 2)")),
        ("def mine(answr): return 1\n", ("'answr'", "def mine(answer, truth)")),
        ("def mine(answer, /): return 1\n", ("positional", "mine")),
        ("def mine(): return 1\n", ("got mine()",)),
    ],
)
def test_files_and_functions_at_fault_are_named_before_device_work(tmp_path, source, words):
    config = configured(tmp_path, source)
    with pytest.raises(UserError) as error:
        Terms(config.reward)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_file_is_looked_up_where_the_command_runs_then_beside_the_configuration(
    tmp_path, monkeypatch
):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    beside = configured(tmp_path / "there", "def mine(text): return 2.0\n")
    assert value(beside.reward) == 2.0
    Path("mine.py").write_text("def mine(text): return 3.0\n")
    assert value(load_config(tmp_path / "there/run.yaml").reward) == 3.0


def test_a_changed_file_is_named_at_resume(tmp_path):
    old = configured(tmp_path, "def mine(text): return 2.0\n")
    assert refused_changes(old, configured(tmp_path, "def mine(text): return 2.0\n")) == []
    new = configured(tmp_path, "def mine(text): return 4.0\n")
    (change,) = refused_changes(old, new)
    assert change.startswith("reward.term_files.mine: 'mine.py ")
    assert config_hash(old) != config_hash(new)
    with pytest.raises(UserError, match=r"mine\.py: expected the content.*another run_dir"):
        Terms(old.reward)


def test_a_file_may_be_edited_once_it_is_open(tmp_path):
    config = configured(tmp_path, "def mine(text): return 2.0\n")
    Terms(config.reward)
    (tmp_path / "mine.py").write_text("def mine(text): return 5.0\n")
    assert value(config.reward) == 2.0

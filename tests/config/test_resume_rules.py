"""What a resumed run may change, and that nothing else is changed in silence."""

import dataclasses
import json

import pytest
from tiny_run import CONFIG

from segr1_jax.config.loading import load_config
from segr1_jax.config.resume_rules import (
    config_hash,
    deciding,
    refused_changes,
    rounding_changes,
    same_run,
)
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime import run_directory
from segr1_jax.runtime.run_directory import (
    claim_run_dir,
    make_run_dir,
    require_one_configuration,
)

# The remedies that a plan proposes after an out-of-memory, and what else is cut differently.
ROUNDED = (
    *("micro_batches=8", "eval_batch=5", "policy.remat=products", "policy.head_chunk=8"),
    *("policy.attention=splash", "rollout.weights=sharded", "mesh.fsdp=2", "reward.threads=2"),
)
FREE = (
    *("eval_every=7", "save_every=7", "log_every=7", "checkpoint_dir=elsewhere", "keep=9"),
    *("keep_best=2", "reward.sidecars=2", "reward.request_timeout_s=9", "steps=101"),
    *("log.to=[jsonl]", "log.completions=4", "log.project=mine"),
)
REFUSED = (
    *("seed=1", "batch=8", "rollout.max_tokens=3", "objective.beta=0.1", "prompt.frame=84"),
    *("optimizer.learning_rate=0.5", "reward.dtype=bfloat16", "data.seed=9", "policy.tower=frozen"),
)


@pytest.fixture
def old(tmp_path):
    options = ["batch=16", "optimizer.schedule=constant", f"run_dir={tmp_path / 'run'}"]
    return load_config(CONFIG, options)


def changed(old: RunConfig, tmp_path, override: str) -> RunConfig:
    options = ["batch=16", "optimizer.schedule=constant", f"run_dir={tmp_path / 'run'}", override]
    return load_config(CONFIG, options)


@pytest.mark.parametrize("override", ROUNDED + FREE + REFUSED)
def test_every_change_is_in_one_group(old, tmp_path, override):
    key, new = override.partition("=")[0], changed(old, tmp_path, override)
    refused, rounded = refused_changes(old, new), rounding_changes(old, new)
    assert [text.partition(":")[0] for text in refused] == [key] * (override in REFUSED)
    assert [text.partition(":")[0] for text in rounded] == [key] * (override in ROUNDED)


def test_more_steps_under_a_cosine_are_refused_with_the_reason(old):
    cosine = dataclasses.replace(
        old, optimizer=dataclasses.replace(old.optimizer, schedule="cosine")
    )
    longer = dataclasses.replace(cosine, steps=cosine.steps + 1)
    assert any("cosine" in text for text in refused_changes(cosine, longer))


def test_a_longer_run_is_another_one(old):
    assert same_run(old, dataclasses.replace(old, keep=9, micro_batches=8))
    assert not same_run(old, dataclasses.replace(old, steps=old.steps + 1))


def test_the_hash_follows_what_decides_the_result():
    base = RunConfig()
    assert config_hash(base) == config_hash(RunConfig(run_dir="elsewhere", keep=9))
    assert config_hash(base) != config_hash(RunConfig(steps=101))


def begun(config: RunConfig):
    run = make_run_dir(config)
    claim_run_dir(run, config)
    run.metrics.write_text('{"step": 1}\n')
    return run


def test_a_resumed_run_says_where_bitwise_equality_ends(old, tmp_path, capsys):
    run = begun(old)
    claim_run_dir(run, changed(old, tmp_path, "micro_batches=8"))
    assert "-> 8: equal up to rounding" in capsys.readouterr().err
    assert load_config(run.config).micro_batches == 8
    claim_run_dir(run, changed(old, tmp_path, "micro_batches=8"))
    assert not capsys.readouterr().err


def test_the_report_of_a_shorter_run_goes(old, tmp_path):
    run = begun(old)
    run.report.write_text("the end")
    claim_run_dir(run, changed(old, tmp_path, "keep=9"))
    assert run.report.exists()
    claim_run_dir(run, changed(old, tmp_path, "steps=9999"))
    assert not run.report.exists()


def test_fewer_steps_than_are_done_are_refused(old, tmp_path):
    run = begun(old)
    (run.checkpoints / "50").mkdir()
    with pytest.raises(UserError, match="at least the 50 that"):
        claim_run_dir(run, changed(old, tmp_path, "steps=40"))
    assert load_config(run.config).steps == old.steps


def test_checkpoints_left_behind_are_named(old, tmp_path):
    run = begun(old)
    (run.checkpoints / "3").mkdir()
    moved = changed(old, tmp_path, f"checkpoint_dir={tmp_path / 'large_disk'}")
    with pytest.raises(UserError, match="has step 3"):
        claim_run_dir(run, moved)
    assert load_config(run.config).checkpoint_dir == ""
    (tmp_path / "large_disk" / "3").mkdir(parents=True)
    claim_run_dir(run, moved)


def test_a_process_with_another_configuration_is_named(monkeypatch, old, tmp_path):
    """As with a file of the user that differs between hosts."""
    require_one_configuration(old)
    first = json.dumps(deciding(changed(old, tmp_path, "seed=7")))
    monkeypatch.setattr(run_directory, "text_of_first", lambda make: first)
    with pytest.raises(UserError, match=r"process 0: expected .*seed=7, got 0"):
        require_one_configuration(old)
    require_one_configuration(changed(old, tmp_path, "seed=7"))

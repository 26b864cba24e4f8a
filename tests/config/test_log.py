"""The section `log`: what it refuses before a run begins."""

import sys

import pytest
from tiny_run import CONFIG

from segr1_jax.config.checks import check
from segr1_jax.config.loading import load_config
from segr1_jax.errors import UserError


def test_the_default_is_the_files_of_the_run_directory():
    log = load_config(CONFIG).log
    assert (log.to, log.completions) == (["jsonl", "tensorboard"], 0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("log.to=[jsonl,wanbd]", "one of jsonl, tensorboard, wandb, trackio"),
        ("log.to=[wandb]", r"log\.to=\[jsonl,wandb\]"),
        ("log.to=[jsonl,trackio,trackio]", r"log\.to=\[jsonl,trackio\]"),
        ("log.to=[jsonl,3]", "one of jsonl"),
        ("log.to=[jsonl,[wandb]]", "one of jsonl"),
        ("log.to=wandb", "list"),
        ("log.completions=-1", "a number in"),
        ("log.project=", "a name"),
        ("log.projct=x", r"log\.project"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(override, message):
    with pytest.raises(UserError, match=message):
        load_config(CONFIG, [override])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    config = load_config(CONFIG, [f"log.to=[jsonl,{name}]", f"policy.path={tmp_path}"])
    with pytest.raises(UserError, match=rf"pip install 'segr1-jax\[{name}\]'"):
        check(config)
    check(load_config(CONFIG, [f"policy.path={tmp_path}"]))

"""Rules over several fields of a configuration, and the files that a run reads."""

import pytest

from segr1_jax.config.checks import check
from segr1_jax.config.loading import load_config
from segr1_jax.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["prompt.frame=100"], "prompt.frame"),
        (["batch=10", "micro_batches=3"], "micro_batches"),
        (["steps=5", "optimizer.warmup_steps=5"], "optimizer.warmup_steps"),
        (
            ["steps=5", "objective.updates_per_rollout=2", "optimizer.warmup_steps=10"],
            "optimizer.warmup_steps",
        ),
        (["guard.max_kl=0.1", "objective.beta=0"], "guard.max_kl"),
        (["reward.sam2_config=a.yaml"], "reward"),
        (["reward.legacy=true", "prompt.frame=784"], "prompt.frame"),
        (["reward.legacy=true", "reward.max_side=512"], "reward.max_side"),
        (["mesh.data=-1"], "mesh"),
        (["mesh.tensor=0"], "mesh"),
        (["data.seed=1"], "eval_data.seed"),
    ],
)
def test_rules_over_several_fields(write, overrides, field):
    with pytest.raises(UserError) as error:
        load_config(write(""), overrides)
    assert error.value.where == field


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ([], "policy.path"),
        (["policy.path=absent"], "policy.path"),
        (["policy.path=.", "data.kind=folder", "eval_data.kind=folder"], "data.images"),
        (
            [
                "policy.path=.",
                "data.kind=folder",
                "data.images=.",
                "data.masks=gone",
                "eval_data.kind=folder",
            ],
            "data.masks",
        ),
        (["policy.path=.", "eval_data.kind=jsonl", "eval_data.manifest=."], "eval_data.manifest"),
        (["policy.path=.", "reward.python=no-such-python"], "reward.python"),
        (
            ["policy.path=.", "reward.terms=[iou,gone.py:mine]", "reward.weights.mine=1"],
            "reward.terms: gone.py",
        ),
        (
            ["policy.path=.", "reward.sam2_config=a.yaml", "reward.sam2_checkpoint=gone.pt"],
            "reward.sam2_checkpoint",
        ),
    ],
)
def test_files_that_the_run_reads(write, overrides, field):
    with pytest.raises(UserError) as error:
        check(load_config(write(""), overrides))
    assert error.value.where == field


def test_check_passes_on_existing_paths(write, tmp_path):
    folders = [
        f"{section}.{field}={tmp_path}"
        for section in ("data", "eval_data")
        for field in ("images", "masks")
    ]
    (tmp_path / "held_out.txt").write_text("a\n")
    kinds = ["data.kind=folder", "eval_data.kind=folder", f"eval_data.ids={tmp_path}/held_out.txt"]
    check(load_config(write(""), [f"policy.path={tmp_path}", *kinds, *folders]))


def test_held_out_data_must_be_other_data(write):
    same = [
        f"{section}.{field}"
        for section in ("data", "eval_data")
        for field in ("kind=jsonl", "manifest=a", "count=9", "seed=0")
    ]
    with pytest.raises(UserError, match="held-out split"):
        load_config(write(""), same)
    with pytest.raises(UserError, match="held-out split"):
        load_config(write(""), ["data.kind=jsonl", "data.manifest=a"])

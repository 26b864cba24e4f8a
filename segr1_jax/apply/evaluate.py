"""`segr1 eval`: the held-out table of a policy."""

import dataclasses
import json
from pathlib import Path

from segr1_jax.apply.opened import open_policy
from segr1_jax.data.pipeline import Skipped
from segr1_jax.data.sources import check, open_source
from segr1_jax.eval.table import markdown_table
from segr1_jax.files import write_atomically
from segr1_jax.reward.client import RewardClient
from segr1_jax.train.config import RunConfig
from segr1_jax.train.held_out import evaluate_weights
from segr1_jax.train.rundir import RunDir


def run_eval(config: RunConfig, source: Path) -> str:
    """Answer config.eval_data greedily and return the table; where `source` is a run, write eval/policy.json and .jsonl into it."""
    held_out, skipped = open_source(config.eval_data), Skipped()
    check(held_out)
    opened = open_policy(config, source)
    with RewardClient(config.reward) as client:
        result = evaluate_weights(opened.engine, opened.rollout_weights, held_out, client, skipped)
    if RunDir(source).config.is_file():
        rows = [json.dumps(dataclasses.asdict(row) | {"parse": row.parse.value}, sort_keys=True) for row in result.rows]
        write_atomically(RunDir(source).eval / "policy.jsonl", "".join(row + "\n" for row in rows))
        write_atomically(RunDir(source).eval / "policy.json", json.dumps(result.figures, sort_keys=True) + "\n")
    lines = [f"skipped {name}: {reason}" for name, reason in skipped.reasons.items()]
    return "\n".join([markdown_table({str(source): result.figures}), *lines])

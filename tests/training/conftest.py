"""Policies with random weights, and a batch of prompts with answers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_engine import B, T
from transformers_oracle import batch_of, make_oracle, make_prompt, save_oracle

from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.objective.batch import AnswerBatch
from segr1_jax.objective.update import TrainBatch

ENDS = (40, 41)  # tokens of a random policy that end a completion


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    oracle = make_oracle()
    return oracle, save_oracle(oracle, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    prompts = batch_of(
        [make_prompt(rng, [(84, 56)], [3, 5 + row]) for row in range(B)], capacity=32
    )
    tokens = rng.integers(0, 280, (B, 1, T)).astype(np.int32)
    answers = AnswerBatch(tokens, np.ones(tokens.shape, bool), np.ones((B, 1), np.float32))
    return TrainBatch(prompts, jax.tree.map(jnp.asarray, answers))


@pytest.fixture(scope="module")
def policy_of_many_lengths(tmp_path_factory):
    """A tiny policy with answers of changing length: any of ENDS ends them."""
    folder = make_tiny_policy(tmp_path_factory.mktemp("lengths") / "tiny", seed=1, frame=84)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token_id": [settings["eos_token_id"], *ENDS]}))
    return folder

"""A policy with random weights, and a batch of prompts with answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_engine import B, T
from transformers_oracle import batch_of, make_oracle, make_prompt, save_oracle

from segr1_jax.objective.batch import AnswerBatch
from segr1_jax.objective.update import TrainBatch


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

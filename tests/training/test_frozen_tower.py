"""A frozen tower: its features are computed once, and checkpoints do not hold it."""

import numpy as np
from adapter_engine import T, load, make_engine, state_at
from tolerances import TOL_SIMPLE

from segr1_jax.objective.loss import answer_loss
from segr1_jax.policy.params import TOWER
from segr1_jax.policy.sharding import TRAIN_RULES
from segr1_jax.runtime.checkpoint import Checkpoints
from segr1_jax.runtime.initial_weights import Start


def test_a_frozen_tower_has_no_part_in_the_update(base, batch):
    """The same gradient of the text, with features computed once.

    A checkpoint without the tower finds it where the run began.
    """
    full, frozen = make_engine(base[1]), make_engine(base[1], tower="frozen")
    params = load(full, base[1])
    tower = {name: value for name, value in params.items() if name.startswith(TOWER)}
    text = {name: value for name, value in params.items() if not name.startswith(TOWER)}
    assert set(frozen.trained_specs) == set(text)
    seen = batch._replace(prompts=frozen.with_features(batch.prompts, params))
    assert full.with_features(batch.prompts, params) is batch.prompts
    whole = full.gradient(answer_loss)(None, params, {}, batch, T).gradient
    half = frozen.gradient(answer_loss)(None, text, tower, seen, T).gradient
    assert set(half) == set(text)
    for name in text:
        error = np.linalg.norm(np.asarray(half[name]) - np.asarray(whole[name])) / np.linalg.norm(
            np.asarray(whole[name])
        )
        assert error <= TOL_SIMPLE, (name, error)


def test_a_checkpoint_of_the_text_lies_on_its_start(base, tmp_path):
    engine = make_engine(base[1], tower="frozen")
    params = load(engine, base[1])
    text = {name: value + 1 for name, value in params.items() if not name.startswith(TOWER)}
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(state_at(2, text, engine.optimizer), 16, {})
    start = Start(str(base[1]), str(tmp_path / "checkpoints"), 2, Start(str(base[1])))
    found = start.load(
        engine.policy, engine.placement.weights(engine.policy.specs, TRAIN_RULES), np.float32
    )
    for name, value in params.items():
        np.testing.assert_array_equal(found[name], text.get(name, value), err_msg=name)

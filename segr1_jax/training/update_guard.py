"""Unsound updates: which are skipped, what is kept of them, and when a run stops for them.

The device decides (`is_sound`, inside the jitted update) from figures of the whole batch, so all
processes agree. The number of skipped updates is part of TrainState, so a resumed run stops where
an uninterrupted one does.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from segr1_jax.config.schema import GuardConfig
from segr1_jax.data.pipeline import Sample
from segr1_jax.errors import UserError
from segr1_jax.reward.transport.incidents import Incidents


def is_sound(figures: dict[str, Array], guard: GuardConfig) -> Bool[Array, ""]:
    """Return True where loss and gradient norm are finite and no figure exceeds its bound.

    A NaN exceeds any bound. SFT has no KL.
    """
    bounds = {"kl": guard.max_kl, "grad_norm": guard.max_grad_norm}
    finite = [jnp.isfinite(figures[name]) for name in ("loss", "grad_norm")]
    within = [figures[name] <= bound for name, bound in bounds.items() if bound and name in figures]
    return jnp.all(jnp.stack(finite + within))


def keep_batch(
    folder: Path,
    step: int,
    figures: Mapping[str, Any],
    samples: Sequence[Sample],
    completions: Mapping[str, np.ndarray],
) -> Path | None:
    """Keep this process's part of a skipped update in `folder`, to be read with `numpy.load`.

    `json.loads(str(it["figures"]))` are its figures.
    """
    numbers = {name: np.asarray(value).item() for name, value in figures.items()}
    about = {
        "step": np.array(step),
        "figures": np.array(json.dumps(numbers, sort_keys=True)),
        "positions": np.array([sample.position for sample in samples]),
        "example_ids": np.array([sample.example.id for sample in samples]),
        "names": np.array([sample.example.name for sample in samples]),
    }
    return Incidents(folder).keep("skipped", about | dict(completions))


def check_skips(figures: Mapping[str, Any], step: int, guard: GuardConfig, folder: Path) -> None:
    """Raise UserError if the last update was skipped, and too many in a row or of all steps."""
    in_a_row, total = int(figures["skipped_in_a_row"]), int(figures["skipped_total"])
    often = total > max(guard.in_a_row, guard.rate * step)
    if not figures["skipped_update"] or (in_a_row < guard.in_a_row and not often):
        return
    last = ", ".join(
        f"{name} {float(figures[name]):g}"
        for name in ("loss", "grad_norm", "kl")
        if name in figures
    )
    raise UserError(
        "training",
        expected=f"fewer than {guard.in_a_row} skipped updates in a row, and skipped updates in at "
        f"most {guard.rate:.0%} of all steps",
        got=f"{in_a_row} in a row and {total} in {step} steps, the last with {last}",
        remedy=f"look at the batches in {folder}; no checkpoint holds a skipped update, so "
        "continue from this run (policy.path) in another run_dir with a lower "
        "optimizer.learning_rate, a higher objective.beta or wider bounds in guard",
    )

"""Training from Python."""

import os
from collections.abc import Sequence
from pathlib import Path

from segr1_jax.api.runtime import prepare
from segr1_jax.config.checks import check
from segr1_jax.config.loading import load_config, override
from segr1_jax.config.schema import RunConfig


def train(config: str | os.PathLike | RunConfig, overrides: Sequence[str] = ()) -> Path:
    """Run the stage of a configuration, SFT or GRPO, and return its run directory.

    As `segr1 sft` and `segr1 train` do: a run that was interrupted continues, and one that is
    complete is left as it is.

    Args:
        config: a YAML file, the name of a recipe (`segr1 recipes`), a run directory, or the
            configuration itself.
        overrides: `key=value`, as on the command line.

    Raises:
        UserError: what the run was given cannot be used; nothing is lost, and the same call
            continues once it is corrected.
        Preempted: SIGTERM came; the run is saved.

    Example:
        >>> run = segr1_jax.train("quickstart_sft", ["steps=60"])  # doctest: +SKIP
    """
    chosen = isinstance(config, RunConfig)
    settled = override(config, overrides) if chosen else load_config(config, overrides)
    check(settled)
    from segr1_jax.common.files import naming_storage_faults
    from segr1_jax.plan.command import plan_before_training
    from segr1_jax.runtime.hub_files import with_local_files
    from segr1_jax.runtime.orbax_steps import last_good_step
    from segr1_jax.runtime.processes import end_together
    from segr1_jax.runtime.run_directory import checkpoint_root
    from segr1_jax.training.loop import run_grpo, run_sft

    prepare(settled)
    checkpoints = checkpoint_root(settled)
    with (
        end_together(),
        naming_storage_faults(settled.run_dir, kept=lambda: last_good_step(checkpoints)),
    ):
        local = with_local_files(settled)
        plan_before_training(local)
        {"sft": run_sft, "grpo": run_grpo}[local.stage](local)
    return Path(settled.run_dir)

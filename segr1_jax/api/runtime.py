"""Preparation of JAX for a run in this process."""

from segr1_jax.config.schema import RunConfig
from segr1_jax.reward.transport.gpus import placed_here

_prepared = False


def prepare(config: RunConfig) -> None:
    """Configure JAX for `config` at the first call.

    Nothing of it can change once JAX has started its devices, so a later call does nothing.
    """
    global _prepared
    if _prepared:
        return
    from segr1_jax.runtime.processes import prepare_runtime

    prepare_runtime(
        deterministic=config.deterministic,
        memory_share=placed_here(config.reward).share_of_jax,
        compile_cache=config.compile_cache,
    )
    _prepared = True

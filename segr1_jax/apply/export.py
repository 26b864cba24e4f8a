"""`segr1 export`: a trained policy as a Hugging Face directory with a model card."""

from pathlib import Path

from segr1_jax.apply.card import conversations, generation_config, model_card
from segr1_jax.apply.opened import open_policy
from segr1_jax.hf.export import export_policy
from segr1_jax.train.check_config import require_fixed_frame
from segr1_jax.train.config import RunConfig


def run_export(config: RunConfig, source: Path, out: Path) -> None:
    """Write the newest weights of `source` to `out`, in float32.

    Raises:
        UserError: `out` exists, `source` holds no policy, or there is no fixed frame.
    """
    require_fixed_frame(config)
    opened = open_policy(config, source)
    base, policy = Path(opened.start.base), opened.engine.policy
    texts = {
        "README.md": model_card(config, source, opened.start),
        "conversations.json": conversations(config),
        "generation_config.json": generation_config(base, policy),
    }
    export_policy(opened.params, policy, base, out, texts)

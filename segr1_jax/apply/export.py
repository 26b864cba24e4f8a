"""`segr1 export`: a trained policy as a Hugging Face directory with a model card."""

from pathlib import Path

from segr1_jax.apply.opened import open_policy
from segr1_jax.hf.export import export_policy
from segr1_jax.train.config import RunConfig
from segr1_jax.train.load_config import config_hash
from segr1_jax.train.rundir import RunDir
from segr1_jax.train.start import Start


def run_export(config: RunConfig, source: Path, out: Path) -> None:
    """Write the newest weights of `source` to `out`, in float32.

    Raises:
        UserError: `out` exists, or `source` holds no policy.
    """
    opened = open_policy(config, source)
    export_policy(opened.params, opened.engine.policy, Path(opened.start.base), out, card=model_card(config, source, opened.start))


def model_card(config: RunConfig, source: Path, start: Start) -> str:
    """What the directory is, how it was trained, how to read its answers. No host names, no absolute paths."""
    report = RunDir(source).report
    trained = f"{config.stage}, {start.step} updates of {config.batch} prompts, config hash {config_hash(config)}"
    table = report.read_text().partition("\n\n")[2] if report.is_file() else "No closing table: the run has not ended.\n"
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
---
# Seg-R1 policy

Written by segr1_jax ({trained if start.step else "weights unchanged"}).
It answers with boxes and labelled points in pixels of the {config.prompt.frame} x {config.prompt.frame} frame its image is stretched to;
SAM2 turns these into a mask. Stretch images with Pillow's bicubic filter before the processor (`backend="pil"`).

## Held-out figures

{table}"""

"""`segr1 export`: a policy as a Hugging Face directory, or its adapters as files of peft."""

import sys
from pathlib import Path

from segr1_jax.config.checks import require_fixed_frame
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.export.card_metadata import base_name
from segr1_jax.export.check import obstacle, verify_export
from segr1_jax.export.model_card import (
    SCRIPT,
    SETTINGS,
    adapter_card,
    conversations,
    generation_config,
    model_card,
    prompt_texts,
    script,
    settings,
)
from segr1_jax.hf.peft_adapter import export_adapter
from segr1_jax.hf.save_weights import export_policy
from segr1_jax.infer.load_policy import open_policy
from segr1_jax.runtime.initial_weights import resolve_start
from segr1_jax.runtime.mesh import make_mesh


def run_export_adapter(
    config: RunConfig, source: Path, out: Path, *, overwrite: bool = False
) -> None:
    """Write the newest adapters of the LoRA run `source` to `out` as peft's files.

    Raises:
        UserError: `out` exists, `source` is no LoRA run, or its base is no Hugging Face directory.
    """
    start = resolve_start(source)
    if start.lora is None:
        raise UserError(
            f"--adapter of {source}",
            expected="a run with policy.lora.rank",
            got="none",
            remedy="omit --adapter",
        )
    if start.below.checkpoints is not None:
        got, remedy = (
            f"the weights of {start.below.checkpoints}",
            "omit --adapter: a merged export contains all weights",
        )
        raise UserError(
            f"--adapter of {source}",
            expected="adapters on a Hugging Face directory",
            got=got,
            remedy=remedy,
        )
    adapters = start.adapters(make_mesh(config.mesh))
    export_adapter(
        adapters,
        start.lora,
        base_name(start),
        out,
        {"README.md": adapter_card(config, start)} | prompt_texts(config.prompt),
        overwrite=overwrite,
    )


def run_export(
    config: RunConfig,
    source: Path,
    out: Path,
    *,
    layout: str | None = None,
    overwrite: bool = False,
    check: bool | None = None,
) -> None:
    """Write the newest weights of `source` to `out`, in the dtypes and the layout of its base.

    `layout` names another layout. `check` compares the written logits with those of transformers;
    None checks if memory allows.

    Raises:
        UserError: `out` exists, `source` holds no policy, no frame is fixed, or the check fails.
    """
    require_fixed_frame(config)
    opened = open_policy(config, source)
    base, policy = Path(opened.start.base), opened.engine.policy
    texts = {
        "README.md": model_card(config, source, opened.start),
        SCRIPT: script(),
        SETTINGS: settings(config, conversations(opened.engine.builder)),
        "generation_config.json": generation_config(base, policy),
    }
    texts |= prompt_texts(opened.engine.builder.config)
    export_policy(opened.params, policy, base, out, texts, layout=layout, overwrite=overwrite)
    lacking = "--no-check" if check is False else obstacle(policy, config.reward.python)
    if check and lacking:
        raise UserError(
            f"--check of {out}",
            expected="a host that can do it",
            got=lacking,
            remedy="export on another host, or omit --check",
        )
    if lacking:
        print(f"not compared with transformers: {lacking}", file=sys.stderr)
        return
    difference = verify_export(opened, out, config.reward.python)
    print(
        "transformers gives the same logits: largest difference "
        f"{difference:.1e} of the largest logit",
        file=sys.stderr,
    )

"""Metadata of a model card, by which the Hub lists, filters and links a model."""

import math
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData, RepoCard

from segr1_jax.common.hub_ids import cached_id, hub_id
from segr1_jax.config.portable import portable
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.initial_weights import Start
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.training.evaluation_files import evaluation_figures

TAGS = ("segmentation", "reasoning-segmentation", "grpo", "seg-r1", "sam2", "segr1_jax")
# Figure of an evaluation -> (metric of the Hub, its name).
METRICS = {
    "iou": ("mean_iou", "IoU"),
    "s_measure": ("s_measure", "S-measure (alpha 0.5)"),
    "mae": ("mae", "MAE"),
    "format": ("valid_answers", "Share of valid answers"),
}
LICENSE = ("license", "license_name", "license_link")


def card_metadata(config: RunConfig, source: Path, start: Start) -> str:
    """Return the YAML head of the card of a policy, with the fences around it.

    License and base model are those of the base checkpoint, as far as it states them. The figures
    are those of the exported step on the held-out set of the run.
    """
    base = cached_id(start.base)
    stated = _card_of(Path(start.base))
    config = portable(config)
    trained_on = hub_id(config.data.path) if config.data.kind == "hub" else None
    results = _results(config.eval_data, RunDir(source), start)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=base.repo if base else stated.get("base_model"),
        datasets=[trained_on.repo] if trained_on else None,
        tags=list(TAGS),
        model_name=source.absolute().name if results else None,
        eval_results=results or None,
        **{name: stated.get(name) for name in LICENSE},
    )
    return f"---\n{data.to_yaml()}\n---\n"


def base_name(start: Start) -> str:
    """Return the name of the base checkpoint: ORG/NAME@COMMIT, or the name of its directory."""
    return str(cached_id(start.base) or Path(start.base).name)


def _card_of(base: Path) -> dict:
    """Return the metadata of the card of a checkpoint, empty where it has none."""
    card = base / "README.md"
    if not card.is_file():
        return {}
    try:
        return RepoCard(card.read_text(encoding="utf-8")).data.to_dict()
    except ValueError as error:
        raise UserError(
            str(card),
            expected="a model card with YAML between two lines of ---",
            got=" ".join(str(error).split())[:200],
            remedy="correct the card of the base checkpoint, or remove it",
        ) from error


def _results(data: DataConfig, run: RunDir, start: Start) -> list[EvalResult]:
    figures = (evaluation_figures(run, start.step) if start.step else None) or {}
    name = hub_id(data.path) if data.kind == "hub" else None
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=name.repo if name else data.kind,
            dataset_name=name.repo if name else data.set or f"held-out {data.kind} data",
            dataset_split=data.split if data.kind in ("hub", "published") else None,
            dataset_revision=name.revision if name else None,
            metric_type=metric,
            metric_name=shown,
            metric_value=round(figures[figure], 6),
        )
        for figure, (metric, shown) in METRICS.items()
        if figure in figures and math.isfinite(figures[figure])
    ]

"""Check of one's own images: a manifest, or a folder of images and masks."""

from collections.abc import Callable
from pathlib import Path

from segr1_jax.data.config import DataConfig
from segr1_jax.data.sets.check import SplitReport, bad_samples
from segr1_jax.data.sources import open_source
from segr1_jax.errors import UserError

FOLDERS = ("images", "masks")


def own_set(root: Path) -> DataConfig | None:
    """Return the source that a manifest (*.jsonl), or a folder with FOLDERS in it, is.

    None for any other path.
    """
    if root.suffix == ".jsonl":
        return DataConfig(kind="jsonl", manifest=str(root))
    images, masks = (root / name for name in FOLDERS)
    if images.is_dir() and masks.is_dir():
        return DataConfig(kind="folder", images=str(images), masks=str(masks))
    return None


def check_own(
    config: DataConfig,
    title: str,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[SplitReport]:
    """Check every sample of a source of files; headers are read, pixels are not decoded.

    `title` is its name in the report, and `progress` that of check_sets.
    """
    try:
        source = open_source(config)
    except UserError as error:
        return [SplitReport(title, "all", found=0, published=None, problems=[str(error)])]
    problems = list(bad_samples(source, title, progress))
    return [SplitReport(title, "all", len(source) - len(problems), None, problems)]

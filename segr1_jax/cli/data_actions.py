"""Functions of `segr1 data`: check sets, or write toy copies of the published ones."""

import argparse
from dataclasses import replace
from pathlib import Path

from segr1_jax.common.hub_ids import hub_id
from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError


def data(options: argparse.Namespace) -> int:
    """Check data sets, or write toy copies of the published ones."""
    return {"check": _check, "toy": _toy}[options.action](options)


def _check(options: argparse.Namespace) -> int:
    """Print a report of the set or the sets that ROOT is; return 1 if one has a problem."""
    from segr1_jax.common.files import write_atomically
    from segr1_jax.data.own_check import check_own, own_set
    from segr1_jax.data.row_check import check_rows, holds_rows
    from segr1_jax.data.sets.check import check_sets, markdown, to_json
    from segr1_jax.hf.hub import local_data
    from segr1_jax.runtime.progress import CountedProgress, show_markdown

    if hub_id(options.root) or holds_rows(Path(options.root)):
        keys = ["data.kind=hub", "eval_data.kind=hub", "eval_data.path=another", *options.overrides]
        path = str(local_data(options.root, "ROOT"))
        config = replace(override(RunConfig(), keys).data, path=path)
        chosen = any(text.startswith("data.split=") for text in options.overrides)
        with CountedProgress() as progress:
            splits = [config.split] if chosen else None
            reports = check_rows(config, options.root, splits, progress.update)
    else:
        _refuse_overrides(options)
        own = own_set(Path(options.root))
        with CountedProgress() as progress:
            reports = (
                check_own(own, options.root, progress.update)
                if own
                else check_sets(Path(options.root), progress.update)
            )
    if options.json:
        write_atomically(options.json, to_json(reports))
    show_markdown(markdown(reports))
    return int(any(report.problems for report in reports))


def _toy(options: argparse.Namespace) -> int:
    from segr1_jax.data.sets.toy import write_toy_sets

    _refuse_overrides(options)
    write_toy_sets(Path(options.root), seed=options.seed)
    print(f"wrote {options.root}")
    return 0


def _refuse_overrides(options: argparse.Namespace) -> None:
    if options.overrides:
        raise UserError(
            options.overrides[0],
            expected="keys only for the check of a set on the Hub, a parquet file or saved tables",
            got=f"{options.action} {options.root}",
            remedy="leave the keys out",
        )

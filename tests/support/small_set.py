"""A set of seven small pictures, two of them at fault, and a configuration that answers it."""

from pathlib import Path

from tiny_run import CONFIG

from segr1_jax.config.loading import load_config

COUNT, SIDE = 7, 168
GOOD = (
    "<think>it lies there</think> <bbox>[20,20,150,150]</bbox>, "
    "<points>[[84,84]]</points>, <labels>[1]</labels>"
)
HOSTILE = "<script>alert(1)</script></textarea>"
BREAKS = "\u2028\u0085\u2029 \n"  # what other readers of lines take for ends of lines
HALF_PAIR = "\\\udc80"  # as in names of files that are not UTF-8


def config_of(folder: Path, *overrides: str):
    data = [
        f"eval_data.{key}"
        for key in ("kind=folder", f"images={folder / 'images'}", f"masks={folder / 'masks'}")
    ]
    return load_config(
        CONFIG,
        [
            *data,
            "eval_batch=2",
            "mesh.data=1",
            "mesh.fsdp=1",
            f"run_dir={folder / 'run'}",
            *overrides,
        ],
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

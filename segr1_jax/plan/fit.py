"""Find the keys that make a run fit, by planning again with them."""

import itertools
from collections.abc import Callable, Iterator

from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.runtime.mesh import mesh_shape

MIN_CHUNK = 16
LORA_RANK = 64


def changes(config: RunConfig, arch: PolicyArch, devices: int) -> Iterator[list[str]]:
    """Yield changes that need less memory, those without effect on results and speed first."""
    data, fsdp, tensor = mesh_shape(config.mesh, devices)
    if data > 1:
        yield ["mesh.data=1", "mesh.fsdp=-1"]
    if config.policy.remat != "full":
        yield ["policy.remat=full"]
    if config.policy.head_chunk > MIN_CHUNK:
        yield [f"policy.head_chunk={MIN_CHUNK}"]
    rows = config.batch // (data * fsdp)
    parts = [count for count in range(config.micro_batches + 1, rows + 1) if rows % count == 0]
    yield from ([f"micro_batches={count}"] for count in sorted({*parts[:1], *parts[-1:]}))
    if config.eval_batch > data * fsdp:
        yield [f"eval_batch={data * fsdp}"]
    if "cuda" in config.reward.device and config.reward.gpu_memory > 0.1:
        yield ["reward.gpu_memory=0.1"]
    for size in (2, 4, 8):
        if size > tensor and devices % size == arch.text.kv_heads % size == 0:
            yield [f"mesh.tensor={size}", "mesh.data=1", "mesh.fsdp=-1"]
    if config.optimizer.moments == "device":
        yield ["optimizer.moments=host"]
    if config.policy.tower == "trained":
        yield ["policy.tower=frozen"]
    if not config.policy.lora.rank:
        yield ["policy.tower=frozen", f"policy.lora.rank={LORA_RANK}"]


def find_fit(
    config: RunConfig, arch: PolicyArch, devices: int, fits: Callable[[RunConfig], bool]
) -> list[str] | None:
    """Return the first change that makes the run fit, of one key or several; None without one."""
    known = list(changes(config, arch, devices))
    together = [list(itertools.chain(*known[: count + 1])) for count in range(1, len(known))]
    return next((change for change in [*known, *together] if _try(config, change, fits)), None)


def _try(config: RunConfig, change: list[str], fits: Callable[[RunConfig], bool]) -> bool:
    try:
        return fits(override(config, change))
    except UserError:  # a change that breaks another rule of the configuration is no remedy
        return False

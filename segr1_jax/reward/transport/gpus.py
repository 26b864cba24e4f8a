"""GPUs visible to this process, read from the CUDA driver without torch or JAX."""

import ctypes
import functools

from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig

DRIVER = "libcuda.so.1"


def placed_here(config: RewardConfig) -> RewardConfig:
    """Return `config` with its sidecars placed on the GPUs of this process.

    Raises:
        UserError: `config.device` names CUDA devices that this process does not see.
    """
    if "cuda" not in config.device:
        return config.placed(0)
    placed = config.placed(visible_gpus())
    absent = [name for name in placed.devices if int(name.partition(":")[2]) >= visible_gpus()]
    if absent:
        raise UserError(
            "reward.device",
            expected=f"one of the {visible_gpus()} GPUs that this process sees",
            got=", ".join(sorted(set(absent))),
            remedy="name cuda:0 and so on, or `cuda` for all of them",
        )
    return placed


@functools.cache
def visible_gpus() -> int:
    """Return the number of GPUs visible to this process, with CUDA_VISIBLE_DEVICES applied.

    Raises:
        UserError: there is no CUDA driver or no GPU.
    """
    count = ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise _no_gpu(str(error)) from None
    if status := cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        raise _no_gpu(f"CUDA error {status} from the driver")
    if not count.value:
        raise _no_gpu("no GPU")
    return count.value


def _no_gpu(got: str) -> UserError:
    return UserError(
        "reward.device",
        expected="an NVIDIA GPU with its driver for `cuda`",
        got=got,
        remedy="check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or set reward.device=cpu",
    )

"""Devices that are not attached, but for which XLA's compilers can compile on any machine.

A TPU topology is written v5e:8x8 and parsed by libtpu. A GPU topology is written h100:8, or
h100:2x8 for two hosts with eight GPUs each; the CUDA plugin compiles for the description in
assets/, without a GPU or a driver. Autotuning is not possible without the device, so the compiler
uses heuristics to choose between cuBLAS and Triton.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.errors import JaxRuntimeError
from jax.experimental import topologies

from segr1_jax.config.hardware import TPUS
from segr1_jax.errors import UserError

# Descriptions of GPUs as text of XLA's GpuTargetConfigProto.
GPU_TARGETS = {file.stem: file for file in sorted((Path(__file__).parent / "assets").glob("*.txt"))}
GPU_TOPOLOGY = re.compile(r"(?:([1-9]\d*)x)?([1-9]\d*)")


def topology_devices(topology: str) -> Sequence[jax.Device]:
    """Return the devices of a topology such as v5e:8x8, h100:8 or h100:2x8 (hosts x GPUs).

    Raises:
        UserError: the kind or its shape is unknown, or its compiler is not installed.
    """
    kind, _, shape = topology.partition(":")
    if kind in GPU_TARGETS:
        return _gpus(kind, shape)
    if kind in TPUS:
        return _tpus(topology)
    raise UserError(
        "--topology",
        expected=f"a kind of {', '.join([*GPU_TARGETS, *TPUS])}, and its shape",
        got=repr(topology),
        remedy="for example h100:8 (GPUs of one host), h100:2x8 (hosts x GPUs) or v5e:8x8 (chips)",
    )


def _gpus(kind: str, shape: str) -> Sequence[jax.Device]:
    if not (found := GPU_TOPOLOGY.fullmatch(shape)):
        raise UserError(
            "--topology",
            expected=f"{kind}:GPUS or {kind}:HOSTSxGPUS",
            got=repr(f"{kind}:{shape}"),
            remedy=f"for example {kind}:8",
        )
    hosts, gpus = int(found[1] or 1), int(found[2])
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            topology_name=kind,
            target_config=GPU_TARGETS[kind].read_text(),
            topology=f"1x{hosts}x{gpus}",
        ).devices
    except NotImplementedError as error:  # no plugin has registered the platform
        raise UserError(
            "--topology",
            expected="XLA's compiler for GPUs, which needs no GPU",
            got=f"{kind}:{shape}: {error}",
            remedy="pip install 'segr1-jax[cuda13]', or [gpu_compiler] on a machine without a GPU",
        ) from error


def _tpus(topology: str) -> Sequence[jax.Device]:
    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except (JaxRuntimeError, RuntimeError, ModuleNotFoundError, ValueError) as error:
        raise UserError(
            "--topology",
            expected="a TPU topology such as v5e:8x8, and its compiler",
            got=f"{topology!r}: {' '.join(str(error).split())[:200]}",
            remedy="pip install 'segr1-jax[tpu]': libtpu compiles on a machine without a TPU",
        ) from error

"""Load and export a random checkpoint with the shapes of Qwen2.5-VL-3B; check memory and bytes.

    .venv/bin/python launch/checkpoint_memory.py make  /tmp/three_b [--arch config.json]
    .venv/bin/python launch/checkpoint_memory.py trip  /tmp/three_b /tmp/three_b_out --devices 8
    .venv/bin/python launch/checkpoint_memory.py open  /tmp/three_b_out

`make` writes 7.5 GB of random bfloat16 with the names of transformers and the writer of
safetensors. `trip` loads it split over fake CPU devices (fsdp), exports it, compares every
tensor byte by byte, and prints the largest anonymous memory of the process above the arrays.
`open` reads a directory with transformers; it may run under another interpreter with another
transformers. Linux only.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

BOUND_GB = 1.5
SHARD_BYTES = 2 * 10**9
POLL_S = 0.005
ARCH_3B = Path(__file__).parents[1] / "configs" / "arch" / "qwen2.5-vl-3b.json"


class AnonymousMemory:
    """Largest resident anonymous memory of this process in the block, in bytes above its start."""

    def __enter__(self) -> "AnonymousMemory":
        self.start = anonymous_bytes()
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def _poll(self) -> None:
        while not self._done.wait(POLL_S):
            self.peak = max(self.peak, anonymous_bytes() - self.start)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def make(out: Path, config: str) -> None:
    """Write a random checkpoint.

    Names and shapes are those of transformers on the meta device, values are numpy's. One shard is
    in memory at a time.
    """
    import ml_dtypes
    import numpy as np
    import torch
    from safetensors.numpy import save_file
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    out.mkdir(parents=True)
    (out / "config.json").write_text(config)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(out))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    rng = np.random.default_rng(0)
    shards, weight_map = [{}], {}
    for name, shape in shapes.items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > SHARD_BYTES:
            _flush(out, shards, save_file)
        shards[-1][name] = (0.02 * rng.standard_normal(shape, np.float32)).astype(
            ml_dtypes.bfloat16
        )
        weight_map[name] = f"model-{len(shards):05d}.safetensors"
    _flush(out, shards, save_file)
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    print(f"wrote {len(shapes)} tensors to {out}")


def _flush(out: Path, shards: list[dict], save_file) -> None:
    save_file(shards[-1], out / f"model-{len(shards):05d}.safetensors", {"format": "pt"})
    shards[-1].clear()
    shards.append({})


def trip(source: Path, out: Path, devices: int) -> None:
    """Load, export and compare; print the memory of loading and of exporting."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    from segr1_jax.config.schema import MeshConfig
    from segr1_jax.hf.load_weights import load_params, read_arch
    from segr1_jax.hf.save_weights import export_policy
    from segr1_jax.policy.params import Policy
    from segr1_jax.policy.sharding import TRAIN_RULES
    from segr1_jax.runtime.mesh import Placement, make_mesh

    policy = Policy(read_arch(source))
    shardings = Placement(make_mesh(MeshConfig(fsdp=devices))).weights(policy.specs, TRAIN_RULES)
    began = time.perf_counter()
    with AnonymousMemory() as loading:
        params = load_params(source, policy, shardings, None)
    arrays = sum(
        shard.data.nbytes for value in params.values() for shard in value.addressable_shards
    )
    per_device = sum(value.addressable_shards[0].data.nbytes for value in params.values())
    above = (loading.peak - arrays) / 1e9
    print(
        f"load    {time.perf_counter() - began:.0f} s; {arrays / 1e9:.2f} GB of arrays, "
        f"{per_device / 1e9:.3f} GB on each of {devices}"
    )
    print(f"        anonymous memory above the arrays: {above:.2f} GB (bound {BOUND_GB})")
    began = time.perf_counter()
    with AnonymousMemory() as exporting:
        export_policy(params, policy, source, out, {})
    seconds, extra = time.perf_counter() - began, exporting.peak / 1e9
    print(
        f"export  {seconds:.0f} s; anonymous memory above the arrays: {extra:.2f} GB "
        f"(bound {BOUND_GB})"
    )
    _compare(source, out, above_GB=max(above, extra))


def _compare(source: Path, out: Path, above_GB: float) -> None:
    """Compare the bytes of two checkpoints; exit with status 1 if they or the memory are wrong."""
    import numpy as np

    from segr1_jax.hf.safetensors_file import open_checkpoint

    ours, theirs = open_checkpoint(out), open_checkpoint(source)
    different = [
        name
        for name, tensor in theirs.items()
        if name not in ours or not _same_bytes(ours[name].view(), tensor.view(), np)
    ]
    print(
        f"bytes   {len(theirs)} tensors, {len(different)} different, "
        f"{len(set(ours) - set(theirs))} unexpected"
    )
    if different or set(ours) != set(theirs) or above_GB > BOUND_GB:
        raise SystemExit(1)


def _same_bytes(a, b, np) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.array_equal(a.view(np.uint16), b.view(np.uint16))
    )


def open_with_transformers(directory: Path) -> None:
    """Check that transformers reads every weight and the rotary settings, and finds no others."""
    import torch
    import transformers

    model, info = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        directory, dtype=torch.bfloat16, output_loading_info=True
    )
    assert "mrope_section" in str(model.config), "rotary settings lost"
    faults = {name: sorted(keys) for name, keys in info.items() if keys}
    count = sum(weight.numel() for weight in model.parameters())
    print(
        f"transformers {transformers.__version__}: {count:,} parameters, faults {faults or 'none'}"
    )
    if faults:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("make", "trip", "open"))
    parser.add_argument("directories", type=Path, nargs="+")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument(
        "--arch", type=Path, default=ARCH_3B, help="make: config.json of a policy other than the 3B"
    )
    options = parser.parse_args()
    if options.stage == "make":
        make(options.directories[0], options.arch.read_text())
    elif options.stage == "trip":
        trip(*options.directories, options.devices)
    else:
        open_with_transformers(options.directories[0])


if __name__ == "__main__":
    sys.exit(main())

"""Compare the memory that `segr1 plan` predicts with the memory of a run.

    .venv/bin/python launch/plan_against_run.py [--steps 2] [--arch config.json] [key=value ...]

A random policy of 141 M parameters is planned with XLA's CPU compiler and then run, in separate
processes. The run finds the compiled programs in a cache that the plan fills, so no compiler adds
to its memory. It makes whole GRPO steps through Engine (sample, reference, gradient over
micro-batches, update) with random rewards.

The script prints the plan's largest moment, the largest anonymous memory of the run above its
start, and their ratio. The exit status is 1 if they are more than 20 % apart. A smaller policy
(--arch) or batch takes less time and is less accurate, because the memory of a process
besides arrays then counts. Linux only.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import checkpoint_memory

BOUND = 0.2
OVERRIDES = [
    *("batch=4", "micro_batches=2", "eval_batch=4", "steps=10"),
    *("prompt.frame=448", "prompt.max_tokens=300"),
    *("rollout.group=4", "rollout.max_tokens=48", "policy.compute_dtype=float32"),
]
PUBLISHED = json.loads(checkpoint_memory.ARCH_3B.read_text())
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "vocab_size": 32000,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "image_token_id": 31000,
    "video_token_id": 31001,
    "vision_start_token_id": 31002,
    "vision_end_token_id": 31003,
    "vision_token_id": 31004,
}
VISION = {
    "depth": 8,
    "hidden_size": 640,
    "intermediate_size": 1710,
    "num_heads": 8,
    "out_hidden_size": 768,
    "fullatt_block_indexes": [3, 7],
}
CONFIG = PUBLISHED | TEXT | {"vision_config": PUBLISHED["vision_config"] | VISION}


def programs(options: argparse.Namespace):
    """Return the programs of the run on the CPU of this machine."""
    from segr1_jax.config.loading import override
    from segr1_jax.config.schema import RunConfig
    from segr1_jax.hf.load_weights import read_arch_file
    from segr1_jax.plan.programs import Programs
    from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
    from segr1_jax.runtime.mesh import make_mesh

    config = override(RunConfig(), [*OVERRIDES, *options.overrides])
    arch = read_arch_file(options.arch) if options.arch else arch_from_config(CONFIG)
    return Programs(config, arch, make_mesh(config.mesh))


def planned(options: argparse.Namespace) -> dict:
    """Return the planned bytes at each moment, with the compiler's figures for temporaries."""
    import math

    import jax

    from segr1_jax.config.hardware import Device
    from segr1_jax.plan.run_plan import compile_plan

    this = programs(options)
    cpu = Device("cpu", math.inf, math.nan, math.nan, jax_share=1.0)
    return compile_plan(this.config, this.arch, cpu, jax.devices()).peak


def measured(options: argparse.Namespace) -> int:
    """Return the largest anonymous memory of the steps, above that of the imports alone."""
    import jax

    this = programs(options)
    jax.block_until_ready(this.engine.rollout_key(0))
    with checkpoint_memory.AnonymousMemory() as memory:
        _train(this, options.steps)
    return memory.peak


def _train(this, steps: int) -> None:
    import jax
    import numpy as np

    from segr1_jax.objective.batch import GroupBatch
    from segr1_jax.objective.loss import grpo_loss
    from segr1_jax.objective.update import TrainBatch

    engine, config = this.engine, this.config
    rng = np.random.default_rng(0)

    def random(shapes):
        return jax.tree.map(
            lambda x: jax.device_put(0.02 * rng.standard_normal(x.shape, np.float32), x.sharding),
            shapes,
        )

    state = engine.moments.init(random(this.state.params))
    reference = engine.reference_weights(random(this.initial), {})
    gradient = engine.gradient(functools.partial(grpo_loss, objective=config.objective))
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), this.pixels(config.batch))
    for step in range(steps):
        prompts = engine.placement.put_rows(blank._replace(mask=blank.mask | True))
        key = engine.rollout_key(step)
        positions = engine.put_positions(range(config.batch))
        samples = engine.sampler(engine.rollout_weights(state.params), prompts, key, positions)
        totals = None
        tokens = np.asarray(samples.mask).sum(axis=(1, 2))
        for micro in engine.micro_batches((prompts, samples), tokens):
            prompt_rows, rows = micro.batch
            shape = rows.tokens.shape[:2]
            weight, advantages = engine.placement.put_rows(
                (np.ones(shape, np.float32), rng.standard_normal(shape, np.float32))
            )
            batch = GroupBatch(
                tokens=rows.tokens,
                mask=rows.mask,
                weight=weight,
                advantages=advantages,
                sampler_logprobs=rows.logprobs,
                reference_logprobs=engine.reference_logprobs(
                    reference, prompt_rows, rows.tokens, rows.mask, micro.capacity
                ),
            )
            part = TrainBatch(prompt_rows, batch)
            totals = gradient(totals, state.params, {}, part, micro.capacity)
        state, metrics = engine.moments.update(state, totals, step + 1)
        del totals
        print(f"step {step}: {jax.device_get(metrics)}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--arch", type=Path, help="config.json of another policy")
    parser.add_argument("--only", choices=("planned", "measured"), help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.only:
        print(json.dumps({"planned": planned, "measured": measured}[options.only](options)))
        return 0
    with tempfile.TemporaryDirectory() as cache:
        peak, used = (_child(part, cache) for part in ("planned", "measured"))
    moment = max(peak, key=peak.get)
    print(
        "plan     " + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in peak.items()) + " GB"
    )
    print(f"plan     {peak[moment] / 1e9:.3f} GB at the largest moment ({moment})")
    print(
        f"run      {used / 1e9:.3f} GB of anonymous memory above its start, {options.steps} steps"
    )
    print(f"ratio    {peak[moment] / used:.3f} (within {BOUND:.0%})")
    return int(abs(peak[moment] / used - 1) > BOUND)


def _child(part: str, cache: str):
    """Run one part in a separate process with the same arguments, and return its result.

    The compiled programs are cached in `cache`, and freed memory returns to the system at once.
    """
    variables = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "MALLOC_MMAP_THRESHOLD_": "1000000",
    }
    command = [sys.executable, *sys.argv, "--only", part]
    done = subprocess.run(command, env=os.environ | variables, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())

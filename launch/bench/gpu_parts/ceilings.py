"""Rates that the device reaches: bytes/s of a copy, FLOP/s of products, an iteration of a loop.

Each is the best of several calls and the best of several sizes: a ceiling, not a typical rate.
"""

import functools

import jax
import jax.numpy as jnp
from first_day_parts.environment import hardware
from gpu_parts.request import Add, Request, attempt, random_keys, seconds_of

# Bytes of the array that is copied.
COPIES, TOY_COPIES = (2**28, 2**30, 2**32), (2**20, 2**22)
# Rows and columns of square matrices, by dtype and precision. XLA computes float32 products as TF32
# unless the highest precision is asked for.
PRODUCTS = {
    ("bfloat16", "default"): (4096, 8192, 16384),
    ("float32", "default"): (4096, 8192),
    ("float32", "highest"): (4096, 8192),
}
TOY_SIDES = (128, 256)
REPEATS = 4
ITERATIONS = 1000


def measure(request: Request, add: Add) -> None:
    """Add a row for each measurement, and the row `ceilings` of the best of each kind."""
    request.prepare_jax()
    attempt(add, "device", lambda: {"device": hardware(), "jax": jax.__version__})
    best = {"bytes_per_s": 0.0}

    def keep(row: dict, rate: str, under: str) -> dict:
        best[under] = max(best.get(under, 0.0), row[rate])
        return row

    for size in TOY_COPIES if request.toy else COPIES:

        def copied(size=size) -> dict:
            return keep(copy(size, request.calls), "bytes_per_s", "bytes_per_s")

        attempt(add, f"copy of {size >> 20} MiB", copied)
    for (dtype, precision), sides in PRODUCTS.items():
        under = f"{dtype}{'' if precision == 'default' else '_highest'}_flops_per_s"
        for side in TOY_SIDES if request.toy else sides:

            def multiplied(side=side, dtype=dtype, precision=precision, under=under) -> dict:
                return keep(product(side, dtype, precision, request.calls), "flops_per_s", under)

            attempt(add, f"product of {side}, {dtype}, {precision} precision", multiplied)
    attempt(add, "iteration of a loop", lambda: iteration(request.calls))
    add({"name": "ceilings"} | best)


def copy(nbytes: int, calls: int) -> dict:
    """Measure a copy on the device: each byte is read and written once."""
    x = jnp.ones(nbytes // 4, jnp.float32)
    # XLA elides a plain copy.
    seconds = min(seconds_of(functools.partial(jax.jit(jnp.negative), x), calls, REPEATS))
    return {"bytes": 2 * nbytes, "seconds": seconds, "bytes_per_s": 2 * nbytes / seconds}


def product(side: int, dtype: str, precision: str, calls: int) -> dict:
    """Measure a product of two square matrices: 2 FLOPs per multiply-add."""
    # The clock of a GPU under load depends on the values: random ones are those of training.
    a, b = (jax.random.normal(key, (side, side), jnp.dtype(dtype)) for key in random_keys(2))
    multiply = jax.jit(functools.partial(jnp.matmul, precision=precision))
    seconds = min(seconds_of(lambda: multiply(a, b), calls, REPEATS))
    flops = 2 * side**3
    return {"flops": flops, "seconds": seconds, "flops_per_s": flops / seconds}


def iteration(calls: int) -> dict:
    """Measure an iteration of a while loop whose end the host cannot know, as decoding is one."""

    @jax.jit
    def loop(stop, x):
        def advance(carry):
            return carry[0] + 1, jnp.sin(carry[1])

        return jax.lax.while_loop(lambda carry: carry[0] < stop, advance, (0, x))

    x = jnp.ones(1024)
    seconds = min(seconds_of(lambda: loop(ITERATIONS, x), calls)) / ITERATIONS
    return {"seconds": seconds}

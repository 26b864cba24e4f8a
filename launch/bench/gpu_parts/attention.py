"""Kernels of policy.attention at the head sizes of the policy: time, and error against float32.

An error is the norm of the difference to `xla` in float32 over the norm of the latter; for the
backward pass it is the largest of the errors of output and gradients.

Shape legend: B prompts of a micro-batch; P prefix tokens; G completions per prompt; T completion
tokens; S slots of a stream of completion tokens; H query heads; K key/value heads; C head size.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gpu_parts.request import Add, Request, attempt, median_of, on_gpu, random_keys

from segr1_jax.plan.command import arch_of
from segr1_jax.policy.attention import Attention
from segr1_jax.policy.packing import packed

IMPLEMENTATIONS = ("xla", "cudnn")


# Traced as a whole: its operations one by one would be compiled one by one.
_packed = jax.jit(packed, static_argnums=1)


class Case(NamedTuple):
    """A pattern of attention: `attend(attention, *inputs)`; `cotangent` is that of its result."""

    attend: Callable[..., jax.Array]
    inputs: tuple[jax.Array, ...]
    cotangent: jax.Array


def measure(request: Request, add: Add) -> None:
    """Add a row for each pattern, implementation and direction."""
    request.prepare_jax()
    for name, make in cases(request).items():
        case = make()
        true = jax.jit(_directions(case, "xla", True)[1])(*_cast(case.inputs))
        for implementation in IMPLEMENTATIONS:
            title = f"{name}, {implementation}"
            if implementation == "cudnn" and not on_gpu():
                add({"name": title, "skipped": "needs an NVIDIA GPU"})
                continue
            forward, both = map(jax.jit, _directions(case, implementation, False))
            for direction, function, values in (
                ("forward", forward, true[0]),
                ("forward and backward", both, true),
            ):
                run = functools.partial(_row, function, case.inputs, values, request.calls)
                attempt(add, f"{title}, {direction}", run)


def cases(request: Request) -> dict[str, Callable[[], Case]]:
    """Return the patterns by name: the prefix, and groups of long and of shorter answers."""
    config, tokens = request.config, request.config.rollout.max_tokens
    short = min(request.answer_tokens, tokens)
    return {
        f"prefix of {config.prompt.max_tokens}": lambda: prefix_case(request),
        f"group, answers of {tokens}": lambda: group_case(request, tokens),
        f"group, answers of {short} packed": lambda: group_case(request, short),
    }


def prefix_case(request: Request) -> Case:
    """Return causal attention over the prefixes of a micro-batch."""
    B, P = _rows(request), request.config.prompt.max_tokens
    text = arch_of(request.config).text
    q, k, v, g = _normal(
        [(B, P, heads, text.head_dim) for heads in _heads(text, own=False)] + [None]
    )
    mask_BP = jnp.ones((B, P), bool)

    def attend(attention: Attention, q_BPHC, k_BPKC, v_BPKC):
        return attention.prefix(q_BPHC, k_BPKC, v_BPKC, mask_BP)

    return Case(attend, (q, k, v), g)


def group_case(request: Request, length: int) -> Case:
    """Return attention of completions of `length` tokens to their prefix and to themselves."""
    config, text = request.config, arch_of(request.config).text
    B, P = _rows(request), config.prompt.max_tokens
    G, T = config.rollout.group, config.rollout.max_tokens
    mask_BGT = jnp.broadcast_to(jnp.arange(T) < length, (B, G, T))
    prefix_mask_BP, packing = jnp.ones((B, P), bool), _packed(mask_BGT, G * length)
    shapes = [
        (B, tokens, heads, text.head_dim)
        for tokens, heads in zip(
            (G * length, P, P, G * length, G * length), _heads(text, own=True), strict=True
        )
    ]
    *inputs, g = _normal([*shapes, None])

    def attend(attention: Attention, q_BSHC, prefix_k, prefix_v, own_k, own_v):
        return attention.group(
            q_BSHC, prefix_k, prefix_v, own_k, own_v, prefix_mask_BP, mask_BGT, packing
        )

    return Case(attend, tuple(inputs), g)


def _rows(request: Request) -> int:
    return request.config.batch // request.config.micro_batches


def _heads(text, *, own: bool) -> tuple[int, ...]:
    return (text.heads, *[text.kv_heads] * (4 if own else 2))


def _normal(shapes: list[tuple[int, ...] | None]) -> list[jax.Array]:
    """Return bfloat16 arrays; None stands for the shape of the first."""

    @jax.jit
    def make():
        return [
            jax.random.normal(key, shape or shapes[0], jnp.bfloat16)
            for key, shape in zip(random_keys(len(shapes)), shapes, strict=True)
        ]

    return make()


def _cast(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(x.astype(jnp.float32) for x in arrays)


def _directions(case: Case, implementation: str, exact: bool) -> tuple[Callable, Callable]:
    """Return the forward pass, and a function that also returns the gradients of all inputs."""
    attention = Attention(implementation)
    cotangent = case.cotangent.astype(jnp.float32) if exact else case.cotangent

    def forward(*inputs):
        with jax.default_matmul_precision("highest" if exact else "default"):
            return case.attend(attention, *inputs)

    def both(*inputs):
        with jax.default_matmul_precision("highest" if exact else "default"):
            out, backward = jax.vjp(functools.partial(case.attend, attention), *inputs)
            return out, backward(cotangent)

    return forward, both


def _row(function: Callable, inputs: tuple, true: Any, calls: int) -> dict:
    pairs = zip(*map(jax.tree.leaves, (function(*inputs), true)), strict=True)
    error = max(_relative(*map(_on_host, pair)) for pair in pairs)
    seconds = median_of(lambda: function(*inputs), calls)
    return {"seconds": seconds, "relative_error": error}


def _on_host(x: jax.Array) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def _relative(value: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(value - true) / np.linalg.norm(true))

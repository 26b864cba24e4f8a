"""Buffers of a run on one device, and the moments at which they are alive.

training/loop.py determines lifetimes; `MOMENTS` and the sets below state them in the order of a
step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from segr1_jax.plan.program import Program, shard_bytes
from segr1_jax.plan.programs import Programs
from segr1_jax.training.moments import STEP_OF

MOMENTS = ("start", "rollout", "reference", "gradient", "update", "evaluation")
# The batch of a step is alive until the next batch is put.
KEPT = MOMENTS[1:]


@dataclass(frozen=True)
class Buffer:
    """A buffer of a run.

    Attributes:
        bytes: on one device.
        moments: moments at which it is alive; none for a part of another buffer, which is shown but
            not added.
        temporary: needed by a program only while it runs, so its size is an estimate or comes from
            the compiler. One program runs at a time.
    """

    name: str
    bytes: float
    moments: tuple[str, ...]
    temporary: bool = False


def ledger(programs: Programs, temporaries: Mapping[str, float]) -> list[Buffer]:
    """Return the buffers of a run; `temporaries` are bytes by program, on one device."""
    config = programs.config
    micro = shard_bytes(programs.gradient.arguments[3])
    buffers = [
        Buffer("master weights", shard_bytes(programs.state.params), MOMENTS),
        *_optimizer(programs),
        Buffer("frozen weights", shard_bytes(programs.frozen), MOMENTS),
        Buffer("reference", shard_bytes(programs.reference), MOMENTS),
        Buffer("initial weights", shard_bytes(programs.initial), ("start",)),
        Buffer("prompts", shard_bytes(programs.prompts(config.batch)), KEPT),
        Buffer("rollout copy", shard_bytes(programs.rollout_copy), ("rollout", "evaluation")),
        Buffer("gradient", shard_bytes(programs.totals), ("gradient", "update")),
        Buffer("micro-batches", config.micro_batches * micro, KEPT[1:]),
        Buffer(
            "evaluation prompts", shard_bytes(programs.prompts(config.eval_batch)), ("evaluation",)
        ),
    ]
    if config.stage == "grpo":
        buffers.append(Buffer("completions", shard_bytes(programs.samples), KEPT[1:]))
        buffers += _caches("", programs.decode, "rollout")
    buffers += _caches("evaluation ", programs.answer_decode, "evaluation")
    buffers += [
        Buffer(f"temporaries of {name}", size, (moment_of(name),), temporary=True)
        for name, size in temporaries.items()
    ]
    buffers += [Buffer(f"of these, {name}", size, ()) for name, size in parts(programs).items()]
    return [buffer for buffer in buffers if buffer.bytes]


def _optimizer(programs: Programs) -> list[Buffer]:
    if pinned := programs.pinned_moments:
        return [Buffer("moments of a weight", pinned.in_flight, ("update",))]
    return [Buffer("optimizer", shard_bytes(programs.state.opt_state), MOMENTS)]


def _caches(owner: str, decode: Program, moment: str) -> list[Buffer]:
    """Return the keys and values that decoding reads, at the longest completion."""
    _, prefilled, _, own, _ = decode.arguments
    prefix = (prefilled.prefix.k, prefilled.prefix.v)
    return [
        Buffer(f"{owner}prefix K/V", shard_bytes(prefix), (moment,)),
        Buffer(f"{owner}own K/V", shard_bytes(own), (moment,)),
    ]


def parts(programs: Programs) -> dict[str, float]:
    """Return bytes of known parts of the temporaries: a chunk of logits."""
    config, vocab = programs.config, programs.arch.text.vocab
    rows = config.batch // programs.engine.placement.row_shards // config.micro_batches
    group = config.rollout.group if config.stage == "grpo" else 1
    chunk = min(config.policy.head_chunk, config.rollout.max_tokens)
    return {"logits chunk": rows * group * chunk * vocab * 4}


def peaks(buffers: list[Buffer], margin: float = 1.0) -> dict[str, float]:
    """Return bytes on one device by moment.

    They are the sum of all kept buffers and `margin` times the largest temporary.
    """

    def sizes(moment: str, temporary: bool) -> list[float]:
        return [
            buffer.bytes
            for buffer in buffers
            if moment in buffer.moments and buffer.temporary == temporary
        ]

    return {
        moment: sum(sizes(moment, False)) + margin * max(sizes(moment, True), default=0.0)
        for moment in MOMENTS
    }


def moment_of(program: str) -> str:
    """Return the moment at which a program runs."""
    return {
        "features": "rollout",
        "decode_weights": "rollout",
        "sample_prefill": "rollout",
        "sample_block": "rollout",
        "reference_logprobs": "reference",
        "answer_prefill": "evaluation",
        "answer_block": "evaluation",
        "clip_gradient": "update",
    }.get(program, "update" if program.startswith(STEP_OF) else program)

"""Compare an export with transformers: one noise image, one answer, all logits.

Shape legend: B prompts; P prompt and answer tokens; T answer tokens; V vocabulary.
"""

import dataclasses
import math
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from segr1_jax.common.interpreters import interpreter_of_torch
from segr1_jax.errors import UserError
from segr1_jax.export import reference_logits
from segr1_jax.hf.load_weights import stored_dtypes
from segr1_jax.infer.load_policy import Opened
from segr1_jax.objective.batch import answer_batch
from segr1_jax.policy.params import Policy
from segr1_jax.prompt.patches import patchify
from segr1_jax.types import Example, Prompt

TOLERANCE = 1e-4  # of the largest logit: float32, a whole model against another implementation
ANSWER = (
    "<think> noise </think> <bbox>[1,2,27,28]</bbox>, "
    "<points>[[3,4]]</points>, <labels>[1]</labels>"
)
SPARE_BYTES = 2 * 2**30  # activations, the interpreter, torch


def obstacle(policy: Policy, python: str) -> str | None:
    """Return the reason why this host cannot check an export, or None.

    The check needs memory for float32 weights, and an interpreter with torch and transformers.
    """
    interpreter = interpreter_of_torch(python)
    probe = (
        "import sys, importlib.util as u; "
        "sys.exit(not all(map(u.find_spec, ('torch', 'transformers'))))"
    )
    if subprocess.run([interpreter, "-c", probe], check=False).returncode:
        return f"{interpreter} does not have both torch and transformers"
    # The copy of transformers, and on the CPU backend ours too.
    copies = 1 + (jax.default_backend() == "cpu")
    need = copies * 4 * sum(math.prod(spec.shape) for spec in policy.specs.values()) + SPARE_BYTES
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return (
        None
        if free >= need
        else f"that takes {need / 2**30:.0f} GiB of free memory, and {free / 2**30:.0f} are free"
    )


def verify_export(opened: Opened, directory: Path, python: str) -> float:
    """Return the largest difference between the logits of `directory` and those of `opened`.

    It is relative to the largest logit. Both compute in float32, ours from the weights in memory,
    rounded to the dtypes of the directory.

    Raises:
        UserError: transformers cannot read the directory, or the logits differ.
    """
    builder, frame = opened.engine.builder, opened.engine.config.prompt.frame
    pixels = np.random.default_rng(0).integers(0, 256, (frame, frame, 3), dtype=np.uint8)
    prompt = builder.build(Example(0, "noise", pixels, np.ones((frame, frame), bool)))
    answer = builder.encode_answer(ANSWER)
    rows = opened.engine.placement.row_shards  # the same row for every part of the mesh
    ours = answer_logits(_as_stored(opened, directory), [prompt] * rows, [answer] * rows)[0]
    ids = np.concatenate([prompt.token_ids, answer])[None].astype(np.int64)
    side = frame // builder.vision.patch
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": (ids == builder.tokenizer.image_pad_id).astype(np.int64),
        "pixel_values": patchify(pixels, builder.vision),
        "image_grid_thw": np.array([[1, side, side]]),
    }
    theirs = transformers_logits(directory, inputs, python)[0, len(prompt.token_ids) - 1 : -1]
    difference = float(np.abs(theirs - ours).max() / np.abs(theirs).max())
    if not difference <= TOLERANCE:
        raise UserError(
            str(directory),
            expected=f"the logits of transformers within {TOLERANCE} of the largest",
            got=f"{difference:.1e}",
            remedy="do not use this export; report it with the versions that `segr1 doctor` prints",
        )
    return difference


def _as_stored(opened: Opened, directory: Path) -> Opened:
    policy = dataclasses.replace(opened.engine.policy, dtype=jnp.float32)
    dtypes = stored_dtypes(directory, policy)
    rounded = {
        name: value.astype(dtypes[name]).astype(np.float32) for name, value in opened.params.items()
    }
    return dataclasses.replace(
        opened, engine=dataclasses.replace(opened.engine, policy=policy), params=rounded
    )


def answer_logits(
    opened: Opened, prompts: Sequence[Prompt], answers: Sequence[np.ndarray]
) -> Float[np.ndarray, "B T V"]:
    """Return the logits of each token of one answer per prompt, without bans or temperature.

    Answers are padded to the length of the longest one.
    """
    engine = opened.engine
    on_mesh = engine.put_prompts(prompts)
    batch = answer_batch(answers, max(len(answer) for answer in answers))

    @jax.jit
    def logits(params, prompts, tokens, mask):
        model = engine.policy.bind(params)
        return jnp.einsum(
            "bgtd,dv->bgtv", model.predict_states(prompts, tokens, mask), model.head_kernel()
        )

    return np.asarray(logits(opened.params, on_mesh, batch.tokens, batch.mask))[:, 0]


def transformers_logits(
    directory: Path, inputs: dict[str, np.ndarray], python: str, dtype: str = "float32"
) -> Float[np.ndarray, "B P V"]:
    """Return the logits of transformers, run by `python` on the CPU, for `inputs` to its forward.

    Raises:
        UserError: it cannot read the directory, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        arrays, out = Path(folder) / "inputs.npz", Path(folder) / "logits.npy"
        np.savez(arrays, **inputs)
        command = [
            interpreter_of_torch(python),
            reference_logits.__file__,
            str(directory),
            str(arrays),
            str(out),
            dtype,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                "export check",
                expected=f"transformers to read {directory}",
                got="; ".join(done.stderr.strip().splitlines()[-2:]),
                remedy="read the message; --no-check skips the check",
            )
        return np.load(out)

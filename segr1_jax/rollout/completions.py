"""Conversion of sampled arrays to Completion records.

Shape legend: B prompts; G completions per prompt; T longest completion.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from segr1_jax.rollout.sampler import Samples
from segr1_jax.types import Completion


def to_completions(
    samples: Samples,
    example_ids: Sequence[int],
    decode: Callable[[Int[np.ndarray, " T"]], str],
    policy_version: int,
) -> list[list[Completion]]:
    """Return a list of G completions per prompt, from host arrays.

    `decode` returns the text of token ids (Tokenizer.decode).
    """
    tokens_BGT, logprobs_BGT, mask_BGT, finished_BG = (np.asarray(array) for array in samples)

    def one(b: int, g: int) -> Completion:
        real_T = mask_BGT[b, g]
        ids = tokens_BGT[b, g][real_T]
        return Completion(
            example_id=example_ids[b],
            sample=g,
            token_ids=ids,
            logprobs=logprobs_BGT[b, g][real_T],
            finished=bool(finished_BG[b, g]),
            text=decode(ids),
            policy_version=policy_version,
        )

    return [[one(b, g) for g in range(tokens_BGT.shape[1])] for b in range(len(example_ids))]

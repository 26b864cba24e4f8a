"""A score is the same whatever else is cached, queued or running."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.types import ScoreStatus

SMALL_CACHE_MB = (
    3  # holds half of the six images' embeddings, so that some are dropped and made again
)


def _scores_in_turmoil(client, requests, seed):
    """Return scores in the order of `requests`.

    They are requested in shuffled batches among other encodes, and collected in another order.
    """
    rng = np.random.default_rng(seed)
    batches = np.array_split(rng.permutation(len(requests)), 9)
    tickets = []
    for batch in batches:
        client.encode(requests[rng.integers(len(requests))].image)
        tickets.append(client.submit([requests[k] for k in batch]))
    scores = [None] * len(requests)
    for at in rng.permutation(len(batches)):
        for k, score in zip(batches[at], client.collect(tickets[at]), strict=True):
            scores[k] = score
    return scores


def test_interleaved_clients_threads_orders_and_caches_change_nothing(requests):
    with (
        RewardClient(RewardConfig(cache_mb=0, queue=3)) as bare,
        RewardClient(RewardConfig(cache_mb=SMALL_CACHE_MB)) as caching,
    ):
        alone = [bare.collect(bare.submit([request]))[0] for request in requests]
        assert len({score.s_measure for score in alone}) > len(requests) / 2  # a mix-up would show
        with ThreadPoolExecutor(4) as threads:
            runs = [
                threads.submit(_scores_in_turmoil, (bare, caching)[seed % 2], requests, seed)
                for seed in range(4)
            ]
        hits = (bare.stats().totals["cache_hits"], caching.stats().totals["cache_hits"])
    for run in runs:
        for score, expected in zip(run.result(), alone, strict=True):
            assert score.status is ScoreStatus.OK
            assert (score.iou, score.s_measure) == (expected.iou, expected.s_measure)
            np.testing.assert_array_equal(score.mask, expected.mask)
    assert hits[0] == 0 < hits[1] < 2 * len(requests)

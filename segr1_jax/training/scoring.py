"""Rewards of a batch of groups: completions to the reward client, scores and advantages back.

Shape legend: B prompts of this process; G completions per prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from segr1_jax.data.pipeline import Sample
from segr1_jax.errors import UserError
from segr1_jax.objective.advantages import completion_weights, group_advantages
from segr1_jax.reward import judging
from segr1_jax.reward.client import RewardClient, Stats
from segr1_jax.reward.judging import AnswerText, Judged, Pending
from segr1_jax.reward.terms import Terms
from segr1_jax.training.run import Run
from segr1_jax.training.step_figures import reward_arrays
from segr1_jax.training.submission import Ended, Submission

# Share of a run's requests that may stay unscored, once they are more than those of a few images:
# all answers about them, and their encoding.
QUARANTINE_SHARE = 0.01
QUARANTINE_FLOOR = 3


class Credit(NamedTuple):
    """Weights and advantages of the completions of a micro-batch, as rows of global arrays."""

    weight: jax.Array  # float32[B, G]
    advantages: jax.Array  # float32[B, G]


class GroupScorer:
    """Score the completions of a run's groups through its reward client."""

    def __init__(self, run: Run, client: RewardClient):
        self._run, self._client, self._config = run, client, run.config
        self._terms = Terms(run.config.reward)

    def encode(self, samples: Sequence[Sample]) -> None:
        """Start encoding the images of `samples`; images that are encoded already cost nothing."""
        with self._run.timer("encode"):
            for sample in samples:
                legacy = self._config.reward.legacy
                judging.encode(self._client, sample.example, legacy=legacy)

    def begin(self, samples: Sequence[Sample]) -> Submission[Pending]:
        """Return the submission of the completions of these samples, which are to be sampled."""
        engine = self._run.engine
        local, decode = engine.placement.get_rows, engine.builder.tokenizer.decode
        return Submission(self.send, self.collect, self._client.room, samples, local, decode)

    @property
    def sends_early(self) -> bool:
        """True if completions are sent during a rollout.

        The legacy reward stretches the photo at each call, about .1 s on the thread that decodes.
        """
        return not self._config.reward.legacy

    def send(self, ended: Sequence[Ended]) -> Pending:
        """Send completions to the sidecars; waits while reward.queue requests are in flight."""
        with self._run.timer("reward"):
            return judging.submit(
                self._client,
                [AnswerText(each.sample.example, each.text, each.finished) for each in ended],
                self._run.engine.builder.frame_of,
                self._config.prompt.task,
                need_masks=self._terms.need_masks,
                legacy=self._config.reward.legacy,
            )

    def collect(self, sent: Pending) -> list[Judged]:
        """Wait for the rewards of what was sent, in order; own terms are called here."""
        return judging.collect(self._client, sent, self._terms)

    def credit(self, judged: Sequence[Sequence[Judged]]) -> Credit:
        """Return the weights and advantages that this process's rewards give."""
        rewards_BG, valid_BG = reward_arrays(judged)
        scale = self._config.objective.scale
        local = Credit(
            completion_weights(valid_BG).astype(np.float32),
            group_advantages(rewards_BG, valid_BG, scale).astype(np.float32),
        )
        return self._run.engine.placement.put_rows(local)

    def stats(self) -> Stats:
        """Counters of the client up to now."""
        return self._client.stats()

    def check_quarantine(self) -> None:
        """Raise UserError once too many requests could not be scored.

        A few cost their completions; many mean that the sidecar is at fault and not the answers.
        """
        totals = self._run.tally.requests
        floor = QUARANTINE_FLOOR * (self._config.rollout.group + 1)
        if totals["quarantined"] > max(QUARANTINE_SHARE * totals["scores"], floor):
            raise UserError(
                "reward sidecar",
                expected=f"at most {QUARANTINE_SHARE:.0%} of the requests quarantined",
                got=f"{totals['quarantined']} quarantined and {totals['scores']} scored requests",
                remedy="inspect incidents/ in the run directory; check reward.sam2_checkpoint, "
                "reward.max_side and the sidecar's memory",
            )

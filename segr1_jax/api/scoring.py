"""Score answer texts from Python, without a policy."""

import dataclasses
import os
from collections.abc import Sequence

from segr1_jax.api.closing import Closing
from segr1_jax.api.pictures import Picture, as_image, as_mask
from segr1_jax.config.checks import MERGED_PATCH, check_reward_paths
from segr1_jax.config.loading import load_config, override
from segr1_jax.config.schema import RunConfig
from segr1_jax.hf.hub import with_local_sam2
from segr1_jax.prompt.patches import model_frame
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, collect, submit
from segr1_jax.reward.terms import Terms
from segr1_jax.types import Example, Frame, Reward


class Scorer(Closing):
    """Rewards for answers, computed in a sidecar that runs until `close` is called.

        with segr1_jax.Scorer() as scorer:
            rewards = scorer.score(texts, "photo.jpg", "truth.png")

    Args:
        config: a YAML file, recipe or run directory whose `reward` and `prompt` sections apply;
            None for the defaults.
        overrides: `key=value`, as on the command line.

    Raises:
        UserError: the configuration or the SAM2 files cannot be used.
    """

    def __init__(
        self, config: str | os.PathLike | None = None, overrides: Sequence[str] = ()
    ) -> None:
        given = (
            override(RunConfig(), overrides) if config is None else load_config(config, overrides)
        )
        check_reward_paths(given.reward)
        self._config = dataclasses.replace(given, reward=with_local_sam2(given.reward))
        self._terms = Terms(self._config.reward)
        self._client = RewardClient(self._config.reward)
        self._client.start()

    def score(self, texts: Sequence[str], image: Picture, mask: Picture) -> list[Reward]:
        """Return the reward of each answer to one image, whose ground truth is `mask`.

        Coordinates in a text are pixels of the model's frame (prompt.frame).

        Raises:
            UserError: the image or the mask cannot be used.
        """
        pixels = as_image(image)
        example = Example(0, "image", pixels, as_mask(mask, *pixels.shape[:2]))
        answers = [AnswerText(example, text) for text in texts]
        config = self._config
        pending = submit(
            self._client,
            answers,
            self._frame_of,
            config.prompt.task,
            need_masks=self._terms.need_masks,
            legacy=config.reward.legacy,
        )
        return [each.reward for each in collect(self._client, pending, self._terms)]

    def _frame_of(self, example: Example) -> Frame:
        return model_frame(example.frame, self._config.prompt, MERGED_PATCH, example.name)

    def close(self) -> None:
        """Stop the sidecar. A second call does nothing."""
        self._client.close()


def score(
    texts: Sequence[str],
    image: Picture,
    mask: Picture,
    config: str | os.PathLike | None = None,
    overrides: Sequence[str] = (),
) -> list[Reward]:
    """Return the reward of each answer to one image; use Scorer to score many images.

    Example:
        >>> (reward,) = segr1_jax.score([text], "a.jpg", "a.png")  # doctest: +SKIP
        >>> reward.total, reward.iou, reward.parse  # doctest: +SKIP
    """
    with Scorer(config, overrides) as scorer:
        return scorer.score(texts, image, mask)

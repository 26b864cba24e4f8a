"""The records that travel between the stages (numpy and stdlib only).

    Example --prompt--> Prompt --rollout--> Completion --answer--> Answer | ParseStatus
      --reward--> Score | ScoreStatus --combine--> Reward --objective--> advantages, TrainBatch

Shape legend: H W native image height and width in pixels; TH TW height and width of its truth
mask, which may differ; P prompt tokens; T completion tokens; W windows of the vision tower;
S patches per window; C pixel values per patch (3 * 14 * 14); K points.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


class ParseStatus(enum.Enum):
    """Result of parsing an answer text.

    Every status but OK is a fault of the policy and gets reward 0.
    """

    OK = "ok"
    TOO_LONG = "too_long"
    MISSING_THINK = "missing_think"
    MISSING_BOX = "missing_box"
    MISSING_POINTS = "missing_points"
    MISSING_LABELS = "missing_labels"
    BAD_THINK = "bad_think"
    BAD_BOX = "bad_box"
    BAD_POINTS = "bad_points"
    BAD_LABELS = "bad_labels"
    LABELS_MISMATCH = "labels_mismatch"
    OUT_OF_FRAME = "out_of_frame"
    TOO_MANY = "too_many"
    TRAILING_TEXT = "trailing_text"
    UNFINISHED = "unfinished"


class ScoreStatus(enum.Enum):
    """Result of a reward request.

    Every status but OK is a fault of the system, not of the policy: the completion is removed from
    its group instead of earning reward 0.
    """

    OK = "ok"
    QUARANTINED = "quarantined"


@dataclasses.dataclass(frozen=True)
class Frame:
    """Pixel frame that coordinates refer to: x in [0, width], y in [0, height]."""

    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Example:
    """One training or evaluation sample at native size.

    `id` is a stable non-negative integer: the sample's index in its source. `image` is RGB.
    `mask` is the truth, None when only predicting; a prediction of another size is resized to it
    (reward/resize.py). `instruction` is the sentence that selects the object, None for "all
    primary objects". `answer` is the text that the policy should write, None where the set has
    none. `ignore` marks pixels that the metrics of an evaluation leave out.
    """

    id: int
    name: str
    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "TH TW"] | None
    instruction: str | None = None
    answer: str | None = None
    ignore: Bool[np.ndarray, "TH TW"] | None = None

    @property
    def frame(self) -> Frame:
        return Frame(width=self.image.shape[1], height=self.image.shape[0])


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Input of the policy: token ids with image slots, and the patches of the images.

    Patches are sorted by attention window and each window is padded to S slots, so that window
    attention is a reshape on the device. They are pixels; `levels` is the input of the tower for
    each value of a pixel, per channel. `image_index[p]` is the row of the tower's merged output
    (row = window * S/4 + unit) that replaces token p, or -1 for a text token.
    `positions` are the M-RoPE axes (temporal, height, width). The completion starts at
    `next_position`, which is 1 + their maximum.
    """

    example_id: int
    token_ids: Int[np.ndarray, " P"]
    positions: Int[np.ndarray, "3 P"]
    next_position: int
    image_index: Int[np.ndarray, " P"]
    patches: UInt8[np.ndarray, "W S C"]
    levels: Float[np.ndarray, "3 256"]
    patch_positions: Int[np.ndarray, "W S 2"]
    patch_mask: Bool[np.ndarray, "W S"]
    window_image: Int[np.ndarray, " W"]
    model_frame: Frame
    native_frame: Frame


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled answer.

    `logprobs` holds the sampler's log-probability of each token under the distribution with
    temperature applied. `token_ids` ends with the end-of-turn token when `finished`; otherwise it
    was cut at the length limit.
    """

    example_id: int
    sample: int
    token_ids: Int[np.ndarray, " T"]
    logprobs: Float[np.ndarray, " T"]
    finished: bool
    text: str
    policy_version: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """Parsed answer, in integer pixels of `frame` (the model's).

    Boxes are (x1, y1, x2, y2) with x1 < x2 and y1 < y2. A label is 1 for a point on the object and
    0 for a point on the background.
    """

    thinking: str
    boxes: tuple[tuple[int, int, int, int], ...]
    points: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    frame: Frame


@dataclasses.dataclass(frozen=True)
class SamPrompt:
    """One SAM2 call: an optional box and its points, in float32 pixels of the native image."""

    box: Float[np.ndarray, " 4"] | None
    points: Float[np.ndarray, "K 2"]
    labels: Int[np.ndarray, " K"]


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Input of a mask reward, complete except for the SAM2 weights.

    The predicted mask is the union of the masks of all `prompts`; `mask` is the truth.
    """

    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "TH TW"]
    prompts: tuple[SamPrompt, ...]
    want_mask: bool = False


@dataclasses.dataclass(frozen=True)
class Score:
    """Reply of the sidecar.

    `iou` and `s_measure` are in [0, 1]. `mask` is the predicted mask in native pixels; it is None
    unless the request set `want_mask`.
    """

    status: ScoreStatus
    iou: float
    s_measure: float
    mask: Bool[np.ndarray, "H W"] | None = None


@dataclasses.dataclass(frozen=True)
class Reward:
    """Reward of a completion and its parts, each part before weighting.

    `valid` is False where no score could be computed. `own` holds the values of the user's own
    terms by name (reward/terms.py), NaN where a function failed.
    """

    total: float
    format: float
    iou: float
    s_measure: float
    parse: ParseStatus
    valid: bool = True
    own: Mapping[str, float] = dataclasses.field(default_factory=dict)

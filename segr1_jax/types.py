"""The records that travel between the stages (numpy and stdlib only).

    Example --prompt--> Prompt --rollout--> Completion --answer--> Answer | ParseStatus
      --reward client--> Score | ScoreStatus --advantages--> Group --batch--> TrainBatch

Shape legend: H W native image height and width in pixels; TH TW those of its truth, which may differ; P prefix tokens; T completion
tokens; W windows of the vision tower; S patches per window; C values per patch (3 * 2 * 14 * 14); K points; N boxes.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


class ParseStatus(enum.Enum):
    """Why an answer text did, or did not, become an Answer. Everything but OK is the policy's fault and earns reward 0."""

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
    """What became of a reward request. Everything but OK is our fault: never a reward of 0, the completion leaves its group."""

    OK = "ok"
    QUARANTINED = "quarantined"


@dataclasses.dataclass(frozen=True)
class Frame:
    """A pixel frame that coordinates live in: x in [0, width], y in [0, height]."""

    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Example:
    """One training or evaluation sample at native size. A prediction is resized to the truth (reward/resize.py).

    `id` is a stable non-negative integer: the sample's index in its source. `image` is RGB.
    `mask` is None when only predicting. `instruction` is the sentence that picks the object, None
    for "all primary objects"; `answer`, where the set has one, is what the policy should say (text).
    `ignore` marks pixels that no metric of an evaluation counts.
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
    """What the policy reads: token ids with image slots, and the patches of the image(s) in window order.

    Patches come sorted by attention window, each window padded to S slots, so that window attention is a reshape and no
    gather runs on the device. `image_index[p]` is the row of the tower's merged output (row = window * S/4 + unit) that
    replaces token p, or -1 for a text token. `positions` are the M-RoPE axes (temporal, height, width);
    `next_position` = 1 + their maximum is where the completion starts.
    """

    example_id: int
    token_ids: Int[np.ndarray, " P"]
    positions: Int[np.ndarray, "3 P"]
    next_position: int
    image_index: Int[np.ndarray, " P"]
    patches: Float[np.ndarray, "W S C"]
    patch_positions: Int[np.ndarray, "W S 2"]
    patch_mask: Bool[np.ndarray, "W S"]
    window_image: Int[np.ndarray, " W"]
    model_frame: Frame
    native_frame: Frame


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled answer. `logprobs` are the sampler's, per token, of the tempered untruncated distribution.

    `token_ids` ends with the end-of-turn token when `finished`; else it was cut at the length cap.
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
    """A parsed answer, integers in pixels of `frame` (the model's). Boxes are (x1, y1, x2, y2) with x1 < x2 and y1 < y2."""

    thinking: str
    boxes: tuple[tuple[int, int, int, int], ...]
    points: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    frame: Frame


@dataclasses.dataclass(frozen=True)
class SamPrompt:
    """One SAM2 call: a box (or none) and the points that belong to it, float32 pixels of the native image."""

    box: Float[np.ndarray, " 4"] | None
    points: Float[np.ndarray, "K 2"]
    labels: Int[np.ndarray, " K"]


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Everything a mask reward depends on besides the SAM2 weights. The masks of all `prompts` are joined; `mask` is the truth."""

    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "TH TW"]
    prompts: tuple[SamPrompt, ...]
    want_mask: bool = False


@dataclasses.dataclass(frozen=True)
class Score:
    """The sidecar's reply. `iou` and `s_measure` are in [0, 1]; `mask`, in pixels of the image, only where the request wanted it."""

    status: ScoreStatus
    iou: float
    s_measure: float
    mask: Bool[np.ndarray, "H W"] | None = None


@dataclasses.dataclass(frozen=True)
class Reward:
    """A completion's reward and its parts, each before weighting. `valid` is False where the score could not be had."""

    total: float
    format: float
    iou: float
    s_measure: float
    parse: ParseStatus
    valid: bool = True

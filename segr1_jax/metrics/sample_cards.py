"""Samples of the report page: pictures, status, and the texts of their answers.

Names and texts are untrusted: they are escaped.

Shape legend: H W native image in pixels; h w picture on the page.
"""

import base64
import dataclasses
import io
from collections.abc import Iterator
from html import escape

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from segr1_jax.answer.grammar import split_thinking
from segr1_jax.common.drawing import comparison, overlay, reduced
from segr1_jax.metrics.status_meanings import meaning
from segr1_jax.types import ParseStatus, SamPrompt

THUMBNAIL = 320  # pixels, the longer side
JPEG_QUALITY = 80
LEGEND = (
    '<ul class="legend" aria-label="Colors of the masks">'
    '<li><i class="hit"></i>hit: in the mask and in the truth</li>'
    '<li><i class="miss"></i>miss: in the truth alone</li>'
    '<li><i class="false"></i>false alarm: in the mask alone</li>'
    '<li><i class="box"></i>box, and points on the object (green, round) or on the background '
    "(red, square)</li></ul>"
)


@dataclasses.dataclass(frozen=True)
class ShownAnswer:
    """One answer about a sample; `iou` is None without a truth; prompts are in native pixels."""

    text: str
    status: str
    iou: float | None = None
    mask: Bool[np.ndarray, "H W"] | None = None
    prompts: tuple[SamPrompt, ...] = ()


@dataclasses.dataclass(frozen=True)
class ReportSample:
    """One sample of the page.

    Attributes:
        image: None for a sample that cannot be read, which has a `reason`.
        before: the answer to the same sample before training, where there is one.
        rank: word for the place of the sample in its set, such as "worst".
    """

    name: str
    instruction: str | None
    answer: ShownAnswer
    image: UInt8[np.ndarray, "H W 3"] | None = None
    truth: Bool[np.ndarray, "H W"] | None = None
    before: ShownAnswer | None = None
    reason: str | None = None
    rank: str = ""


def sample_card(sample: ReportSample) -> str:
    """Return the HTML of a sample as an item of a list."""
    answer = sample.answer
    iou = "" if answer.iou is None else f"{answer.iou:.4f}"
    name, status = escape(sample.name), escape(answer.status)
    rank = f'<span class="rank">{escape(sample.rank)}</span> ' if sample.rank else ""
    fault = "" if _is_ok(answer) else f' <span class="status bad">{_fault(answer.status)}</span>'
    figure = f' <span class="status">{_change(sample)}</span>' if iou else ""
    return (
        f'<li data-name="{name}" data-status="{status}" data-iou="{iou}">'
        f'<div class="pictures">{"".join(_pictures(sample))}</div><div class="words">'
        f"<h3>{rank}<bdi>{name}</bdi>{figure}{fault}</h3>{_texts(sample)}</div></li>"
    )


def _change(sample: ReportSample) -> str:
    if sample.before is None or sample.before.iou is None:
        return f"IoU {sample.answer.iou:.3f}"
    return f"IoU {sample.before.iou:.3f} → {sample.answer.iou:.3f}"


def _fault(status: str) -> str:
    words = meaning(status)
    return escape(status if words == status else f"{status}: {words}")


def _texts(sample: ReportSample) -> str:
    before = sample.before
    parts = [
        ("Instruction", sample.instruction),
        *_parts(" after" if before else "", sample.answer),
        *(_parts(" before", before) if before else []),
        # That of the answer is in the heading.
        ("Fault before", meaning(before.status) if before and not _is_ok(before) else None),
        ("Reason", sample.reason),
    ]
    listed = "".join(
        f'<dt>{name}</dt><dd dir="auto"{_kind(name)}>{escape(text)}</dd>'
        for name, text in parts
        if text
    )
    return f"<dl>{listed}</dl>"


def _parts(when: str, answer: ShownAnswer) -> list[tuple[str, str]]:
    thinking, rest = split_thinking(answer.text)
    return [(f"Thinking{when}", thinking), (f"Answer{when}", rest)]


def _is_ok(answer: ShownAnswer) -> bool:
    return answer.status == ParseStatus.OK.value


def _kind(name: str) -> str:
    return ' class="code"' if name.startswith("Answer") else ""


def _pictures(sample: ReportSample) -> Iterator[str]:
    if sample.image is None:
        return
    yield _picture("image", *_small(sample, None), sample.name)
    if sample.before is not None:
        yield _answer_picture("before", sample, sample.before)
    yield _answer_picture("after" if sample.before else "prediction", sample, sample.answer)


def _answer_picture(kind: str, sample: ReportSample, answer: ShownAnswer) -> str:
    if answer.mask is None:
        blank = np.zeros(sample.image.shape[:2], bool)
        pixels, _ = _small(sample, None if sample.truth is None else blank, ())
        return _picture(kind, pixels, f"no mask: {answer.status}", sample.name)
    pixels, shares = _small(sample, answer.mask, answer.prompts)
    return _picture(kind, pixels, shares, sample.name)


def _small(
    sample: ReportSample,
    mask_HW: Bool[np.ndarray, "H W"] | None,
    prompts: tuple[SamPrompt, ...] = (),
) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Return the picture of a mask at the size of the page, and its hits and faults in words."""
    image, mask, moved = reduced(sample.image, mask_HW, prompts, THUMBNAIL)
    if mask is None or sample.truth is None:
        return overlay(image, mask, moved), ""
    _, truth, _ = reduced(sample.image, sample.truth, (), THUMBNAIL)
    return comparison(image, mask, truth, moved), _shares(mask_HW, sample.truth)


def _shares(mask_HW: Bool[np.ndarray, "H W"], truth_HW: Bool[np.ndarray, "H W"]) -> str:
    """Return the shares of hits, misses and false alarms in the union, of native pixels."""
    union = np.count_nonzero(mask_HW | truth_HW)
    if not union:
        return "both empty"
    hits = np.count_nonzero(mask_HW & truth_HW)
    misses = np.count_nonzero(truth_HW) - hits
    parts = {"hit": hits, "miss": misses, "false alarm": union - hits - misses}
    return ", ".join(f"{name} {count / union:.0%}" for name, count in parts.items())


def _picture(kind: str, pixels: UInt8[np.ndarray, "h w 3"], words: str, name: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    source = base64.b64encode(buffer.getvalue()).decode()
    height, width = pixels.shape[:2]
    about = f"{kind}: {name}" + (f" ({words})" if words else "")
    note = f" <small>{escape(words)}</small>" if words else ""
    return (
        f'<figure class="{kind}"><img loading="lazy" width="{width}" height="{height}" '
        f'alt="{escape(about)}" src="data:image/jpeg;base64,{source}">'
        f"<figcaption><b>{kind}</b>{note}</figcaption></figure>"
    )

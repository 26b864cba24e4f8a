"""Random prompts for training the nano SAM2, and the mask that each of them means.

The mask is a smooth function of the prompt, because a policy in training prompts imprecisely. A box
far from every object means its own rectangle, a good box means its object, and there is a gradual
blend in between. A wrong point adds or removes a disc.

Legend: N image side; M = N / 2 side of target masks; O objects; K points. Coordinates are (x, y) in
image pixels.
"""

import numpy as np

# IoU of a box with the tight box of an object.
FILL_BELOW, OBJECT_ABOVE = 0.4, 0.7
# An object may extend beyond its box by this share of the box's side.
BOX_SLACK = 0.08
# Radius of the disc of a stray point, as a share of the image side.
DISC = 0.1
POINT_COUNTS = (0, 1, 2, 3, 4, 5, 6)
ODDS_WITH_BOX = (0.3, 0.12, 0.12, 0.12, 0.12, 0.12, 0.1)
ODDS_POINTS_ONLY = (0.0, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1)
ODDS_BOX = 0.65
ODDS_ANY_BOX, ODDS_LOOSE_BOX = 0.12, 0.2


def random_layout(rng) -> tuple[bool, int]:
    """Choose whether a batch has boxes, and its number of points per prompt.

    All prompts of a batch have them in common, because their token counts must be equal.
    """
    has_box = bool(rng.random() < ODDS_BOX)
    return has_box, int(rng.choice(POINT_COUNTS, p=ODDS_WITH_BOX if has_box else ODDS_POINTS_ONLY))


def random_prompt(rng, masks: list[np.ndarray], has_box: bool, count: int):
    """Return a prompt: box or None, points (K, 2) as float32, and labels (K,) as int32."""
    meant = [int(rng.integers(len(masks)))]
    pair = len(masks) > 1 and rng.random() < 0.35
    if pair and has_box:
        meant = [int(k) for k in rng.permutation(len(masks))[:2]]
    box = _random_box(rng, [masks[k] for k in meant]) if has_box else None
    labels = (rng.random(count) < 0.6).astype(np.int32)
    if count and not has_box:
        labels[0] = 1
    points = [_random_point(rng, masks, meant[0], label) for label in labels]
    return box, np.array(points, np.float32).reshape(-1, 2), labels


def _random_box(rng, masks):
    side = masks[0].shape[0]
    x1, y1, x2, y2 = tight_box(np.logical_or.reduce(masks))
    kind = rng.random()
    if kind < ODDS_ANY_BOX:
        return np.sort(rng.uniform(0, side, (2, 2)), axis=0).reshape(4).astype(np.float32)
    if kind < ODDS_ANY_BOX + ODDS_LOOSE_BOX:
        # A box around the object, each side at most at the image's border.
        border = np.array([0, 0, side, side])
        share = rng.uniform(0, 1, 4) ** rng.choice((0.2, 1.0))
        return ((1 - share) * (x1, y1, x2, y2) + share * border).astype(np.float32)
    spread = rng.choice((0.0, 0.05, 0.25), p=(0.4, 0.35, 0.25)) * np.array([x2 - x1, y2 - y1] * 2)
    corners = np.clip((x1, y1, x2, y2) + rng.normal(0, 1, 4) * spread, 0, side).reshape(2, 2)
    return np.sort(corners, axis=0).reshape(4).astype(np.float32)


def _random_point(rng, masks, meant, label):
    others = [k for k in range(len(masks)) if k != meant]
    if label == 1:
        area = masks[meant] if rng.random() < 0.85 else None
    elif others and rng.random() < 0.6:
        area = masks[rng.choice(others)]
    else:
        area = ~np.logical_or.reduce(masks) if rng.random() < 0.8 else masks[meant]
    if area is None:
        return rng.uniform(0, masks[0].shape[0], 2)
    row, column = divmod(int(rng.choice(np.flatnonzero(area))), masks[0].shape[0])
    return column + 0.5, row + 0.5


def meant_mask(masks: list[np.ndarray], box, points, labels) -> np.ndarray:
    """Return the (M, M) soft mask, in [0, 1], that a prompt means."""
    side = masks[0].shape[0]
    objects_OMM = (
        np.stack(masks).reshape(-1, side // 2, 2, side // 2, 2).mean((2, 4), dtype=np.float32)
    )
    claimed = {
        k
        for p, label in zip(points, labels, strict=True)
        if label == 1 and (k := _object_at(masks, p)) is not None
    }
    result_MM = np.zeros_like(objects_OMM[0])
    if box is not None:
        result_MM, referents = _box_meaning(masks, objects_OMM, box)
        claimed |= referents if len(referents) == 1 else set()
    for point, label in zip(points, labels, strict=True):
        k, disc_MM = _object_at(masks, point), _disc(point, side)
        if label == 1:
            result_MM = np.maximum(result_MM, disc_MM if k is None else objects_OMM[k])
        elif k is None:
            result_MM = result_MM * (1 - disc_MM * (1 - objects_OMM.max(0)))
        else:
            result_MM = result_MM * (1 - (disc_MM if k in claimed else objects_OMM[k]))
    return result_MM


def _box_meaning(masks, objects_OMM, box):
    count = len(masks)
    choices = [{k} for k in range(count)] + [{j, k} for j in range(count) for k in range(j)]
    quality, referents = max(
        (
            (box_iou(box, tight_box(np.logical_or.reduce([masks[k] for k in choice]))), choice)
            for choice in choices
        ),
        key=lambda c: c[0],
    )
    fill = float(np.clip((OBJECT_ABOVE - quality) / (OBJECT_ABOVE - FILL_BELOW), 0, 1))
    slack = BOX_SLACK * np.array([box[2] - box[0], box[3] - box[1]])
    near_MM = _rectangle(box + np.concatenate([-slack, slack]), masks[0].shape[0])
    object_MM = objects_OMM[list(referents)].max(0) * near_MM
    return (1 - fill) * object_MM + fill * _rectangle(box, masks[0].shape[0]), referents


def _object_at(masks, point):
    column, row = np.minimum(np.asarray(point, int), masks[0].shape[0] - 1)
    return next((k for k, mask in enumerate(masks) if mask[row, column]), None)


def _disc(point, side):
    at = np.arange(side // 2) * 2 + 1
    return (np.hypot(at - point[0], (at - point[1])[:, None]) < DISC * side).astype(np.float32)


def _rectangle(box, side):
    at = np.arange(side // 2) * 2 + 1
    return ((at > box[0]) & (at < box[2]) & ((at > box[1]) & (at < box[3]))[:, None]).astype(
        np.float32
    )


def tight_box(mask) -> np.ndarray:
    """Return the box (x1, y1, x2, y2) around a mask; a single pixel gives a box of side 1."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def box_iou(a, b) -> float:
    """Return the intersection over union of two boxes."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = max(width, 0) * max(height, 0)
    return float(inter / max((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter, 1e-9))

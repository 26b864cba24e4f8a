"""M-RoPE positions of a prompt: text counts up on all three axes, an image spans its grid.

Shape legend: P prompt tokens; R runs of image tokens; 3 axes (temporal, height, width).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def mrope_positions(
    token_ids_P: Int[np.ndarray, " P"], grids: Sequence[tuple[int, int]], image_pad_id: int
) -> tuple[Int[np.ndarray, "3 P"], int]:
    """Return the position ids (int32) and the position of the first token after the prompt.

    `grids` lists each image's (rows, columns) in merged units, in the order of the runs of image
    tokens. The tokens of an image share one temporal position. The token after an image starts
    after the longer side of its grid: the 729 tokens of a 27x27 grid advance the position by 27.
    Raises ValueError where runs of image tokens and grids disagree.
    Source: `get_rope_index` of Qwen2_5_VLModel, images and text.
    """
    runs = image_runs(token_ids_P, image_pad_id)
    if [int(end - start) for start, end in runs] != [rows * columns for rows, columns in grids]:
        spans = [(int(start), int(end)) for start, end in runs]
        raise ValueError(f"image token runs {spans} do not fit the grids {list(grids)}")
    positions_3P = np.empty((3, len(token_ids_P)), np.int32)
    # `cursor` is the first token without a position, `position` the position that it gets.
    position = cursor = 0
    for (start, end), (rows, columns) in zip(runs, grids, strict=True):
        # Text before the image: the same position on all three axes.
        positions_3P[:, cursor:start] = np.arange(position, position + start - cursor)
        position += start - cursor
        # Image: constant temporal axis, row and column of the merged unit on the other two.
        offsets = np.zeros(rows * columns, int), *np.divmod(np.arange(rows * columns), columns)
        positions_3P[:, start:end] = position + np.stack(offsets)
        position += max(rows, columns)
        cursor = end
    tail = len(token_ids_P) - cursor
    positions_3P[:, cursor:] = np.arange(position, position + tail)
    return positions_3P, int(position + tail)


def image_runs(token_ids_P: Int[np.ndarray, " P"], image_pad_id: int) -> Int[np.ndarray, "R 2"]:
    """Return the start and the end of each unbroken run of image tokens, in order."""
    is_image_P = np.asarray(token_ids_P) == image_pad_id
    return np.flatnonzero(np.diff(is_image_P, prepend=False, append=False)).reshape(-1, 2)

"""SAM2 as two pure functions.

    encode(image) -> embedding
    decode(embedding, prompts of one answer) -> union of their masks

Masks equal `SAM2ImagePredictor.predict(multimask_output=False)`, on a CPU pixel for pixel; on a GPU
the photo is resized there. Unlike the predictor, this module keeps no state between calls, and it
takes every image size that the model supports (the predictor fixes its feature sizes for 1024 px).

Shape legend: H W native image; h w feature map (image_size / 4, / 8, / 16); C channels; B prompts
of one decode; K points, where a box counts as two.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from sam2.utils.transforms import SAM2Transforms

# jaxtyping may be absent in the interpreter of the sidecar.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, UInt8

    from segr1_jax.reward.transport.prompts_block import WirePrompt

BOX_LABELS = (2, 3)  # SAM2's labels of the top left and bottom right corner
MASK_THRESHOLD = 0.0
# SAM2.1 tiny, one CPU thread: 0.083 s per prompt alone, 0.194 s per prompt in a batch of 16. These
# are constants and not measured at every start, because the batch size may change the last bits of
# a mask's logits, and a resumed run must score exactly like the uninterrupted one.
CPU_DECODE_BATCH, GPU_DECODE_BATCH = 1, 16
# The modules whose inputs and weights autocast rounds.
PRODUCTS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)


class Embedding(NamedTuple):
    """Input of the mask decoder for one image.

    `features` are maps (1, C, h, w), finest first; `size` is the native (H, W).
    """

    features: tuple[torch.Tensor, ...]
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """The number of bytes of the feature maps."""
        return sum(f.element_size() * f.nelement() for f in self.features)

    def to(self, device: str) -> Embedding:
        """Return the embedding on `device`, without a copy if it is there already."""
        return self._replace(features=tuple(f.to(device) for f in self.features))


class Sam2:
    """Frozen SAM2. Results depend on the arguments alone, never on earlier calls.

    If the device runs out of memory for a decode batch, its halves are decoded one after the other;
    `retries` counts these cases.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: str = "cpu",
        dtype: str = "float32",
        decode_batch: int = 0,
    ):
        self.model = model.to(device).eval()
        if dtype == "bfloat16":
            _round_weights(self.model)
        self.device = torch.device(device)
        self.decode_batch = decode_batch or (
            CPU_DECODE_BATCH if self.device.type == "cpu" else GPU_DECODE_BATCH
        )
        self.retries = 0
        self._transforms = SAM2Transforms(
            resolution=model.image_size, mask_threshold=MASK_THRESHOLD
        )
        self._autocast = (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if dtype == "bfloat16"
            else contextlib.nullcontext()
        )
        with torch.inference_mode(), self._autocast:
            # The positional encoding of the grid is the same for every image.
            self._grid_pe_1chw = self.model.sam_prompt_encoder.get_dense_pe()

    @torch.inference_mode()
    def encode(self, image_HW3: UInt8[np.ndarray, "H W 3"]) -> Embedding:
        """Return the embedding of an RGB image at native size."""
        pixels_1chw = self._pixels(image_HW3)
        with self._autocast:
            backbone = self.model.forward_image(pixels_1chw)
            _, levels, _, sizes = self.model._prepare_backbone_features(backbone)
        if self.model.directly_add_no_mem_embed:
            levels[-1] = levels[-1] + self.model.no_mem_embed
        features = tuple(
            level.permute(1, 2, 0).view(1, -1, *size)
            for level, size in zip(levels, sizes, strict=True)
        )
        return Embedding(features, image_HW3.shape[:2])

    def _pixels(self, image_HW3: UInt8[np.ndarray, "H W 3"]) -> torch.Tensor:
        """Return the input of the model: SAM2Transforms of the image, on a CPU bit for bit.

        The resize runs on the device, where its last bits may differ from a CPU's. It takes a CPU
        thread .16 s for a photo of 6 megapixels, several times the encoding on a GPU.
        """
        bytes_3HW = torch.from_numpy(image_HW3).to(self.device).permute(2, 0, 1)
        return self._transforms.transforms(bytes_3HW.to(torch.float32).div_(255))[None]

    @torch.inference_mode()
    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[WirePrompt],
        size: tuple[int, int] | None = None,
    ) -> Bool[np.ndarray, "H W"]:
        """Return the union of the masks of one answer's prompts, empty without prompts.

        `size` is the (height, width) of the mask, native if None. Coordinates are in native pixels
        in either case. Prompts with the same number of points share a decoder batch, in the order
        of the answer: padding with points would change the masks of SAM2.
        """
        size = size or embedding.size
        mask_HW = torch.zeros(size, dtype=torch.bool, device=self.device)
        for coords_BK2, labels_BK in self._batches(prompts, embedding.size):
            mask_HW |= self._decode_or_halve(embedding, coords_BK2, labels_BK, size)
        return mask_HW.cpu().numpy()

    def _batches(self, prompts: Sequence[WirePrompt], size: tuple[int, int]):
        groups: dict[int, list] = {}
        for prompt in prompts:
            coords_K2, labels_K = with_box_corners(prompt)
            groups.setdefault(len(labels_K), []).append((coords_K2, labels_K))
        for members in groups.values():
            for start in range(0, len(members), self.decode_batch):
                coords, labels = zip(*members[start : start + self.decode_batch], strict=True)
                coords_BK2 = torch.as_tensor(
                    np.stack(coords), dtype=torch.float32, device=self.device
                )
                yield (
                    self._transforms.transform_coords(coords_BK2, normalize=True, orig_hw=size),
                    torch.as_tensor(np.stack(labels), dtype=torch.int, device=self.device),
                )

    def _decode_or_halve(
        self, embedding: Embedding, coords_BK2, labels_BK, size: tuple[int, int]
    ) -> torch.Tensor:
        try:
            return self._decode_batch(embedding, coords_BK2, labels_BK, size)
        except torch.OutOfMemoryError:
            if len(coords_BK2) == 1:
                raise
        # Outside the handler: the exception keeps the frames of the failed call and its tensors
        # alive.
        self.note_retry(f"a decode batch of {len(coords_BK2)} prompts")
        half = len(coords_BK2) // 2
        first, second = (
            self._decode_or_halve(embedding, coords_BK2[part], labels_BK[part], size)
            for part in (slice(half), slice(half, None))
        )
        return first | second

    def note_retry(self, what: str) -> None:
        """Count and log that `what` did not fit into device memory, and free torch's cache."""
        self.retries += 1
        print(
            f"out of memory on {self.device} for {what}; trying less at a time",
            file=sys.stderr,
            flush=True,
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _decode_batch(
        self, embedding: Embedding, coords_BK2, labels_BK, size: tuple[int, int]
    ) -> torch.Tensor:
        *high_res, image_1chw = embedding.features
        encoder, decoder = self.model.sam_prompt_encoder, self.model.sam_mask_decoder
        with self._autocast:
            sparse, dense = encoder(points=(coords_BK2, labels_BK), boxes=None, masks=None)
            logits_B1hw, *_ = decoder(
                image_embeddings=image_1chw,
                image_pe=self._grid_pe_1chw,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
                repeat_image=len(coords_BK2) > 1,
                high_res_features=high_res,
            )
        logits_B1HW = self._transforms.postprocess_masks(logits_B1hw, size)
        return (logits_B1HW > MASK_THRESHOLD).any(dim=0)[0]


def _round_weights(model: torch.nn.Module) -> None:
    """Store the weights of products and convolutions in bfloat16, in place.

    Autocast would round them to the same bits at every call, with one kernel for each weight.
    """
    for module in model.modules():
        if isinstance(module, PRODUCTS):
            module.to(torch.bfloat16)


def with_box_corners(prompt: WirePrompt) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a prompt as SAM2 takes them: (K, 2) coordinates and K labels.

    The two corners of the box come first.
    """
    if prompt.box is None:
        return prompt.points, prompt.labels
    return np.concatenate([prompt.box.reshape(2, 2), prompt.points]), np.concatenate(
        [BOX_LABELS, prompt.labels]
    )

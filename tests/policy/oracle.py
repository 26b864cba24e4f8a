"""The independent oracle: transformers' Qwen2.5-VL with random weights, and prompts with noise images of odd sizes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from segr1_jax.policy.inputs import stack_prompts
from segr1_jax.policy.model import PromptBatch
from segr1_jax.prompt.positions import mrope_positions
from segr1_jax.prompt.vision import VisionSettings
from segr1_jax.prompt.windows import join_windows, window_layout
from segr1_jax.types import Frame, Prompt

IMAGE, VIDEO, START, END, EOS = 290, 291, 292, 293, 294
VISION = VisionSettings(patch=14, temporal_patch=2, merge=2, window=56, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


def make_oracle(*, tied: bool = True, layers: int = 3) -> Qwen2_5_VLForConditionalGeneration:
    """A small Qwen2.5-VL with weights large enough that every part of it matters."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 300,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "max_position_embeddings": 1000,
            "tie_word_embeddings": tied,
            "bos_token_id": EOS,
            "eos_token_id": EOS,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 80,
            "num_heads": 4,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=tied,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval().float()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.0 if weight.ndim > 1 else 0.5, std=0.2)
    return model


def save_oracle(model: Qwen2_5_VLForConditionalGeneration, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory


def make_prompt(rng: np.random.Generator, sizes: list[tuple[int, int]], texts: list[int]) -> Prompt:
    """Random text tokens around noise images: texts[0] tokens, image, texts[1] tokens, image, ... `sizes` are (height, width)."""
    ids, images = [], []
    for count, size in zip(texts, [*sizes, None], strict=True):
        ids += list(rng.integers(0, 280, count))
        if size:
            images.append(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            ids += [START, *[IMAGE] * VISION.image_tokens(*size), END]
    tokens = np.array(ids, np.int32)
    grids = [(height // VISION.unit, width // VISION.unit) for height, width in sizes]
    positions, next_position = mrope_positions(tokens, grids, IMAGE)
    windows = join_windows(images, VISION)
    image_index = np.full(len(tokens), -1, np.int32)
    image_index[tokens == IMAGE] = windows.unit_row
    return Prompt(
        example_id=0,
        token_ids=tokens,
        positions=positions,
        next_position=next_position,
        image_index=image_index,
        patches=windows.patches,
        patch_positions=windows.patch_positions,
        patch_mask=windows.patch_mask,
        window_image=windows.window_image,
        model_frame=Frame(1, 1),
        native_frame=Frame(1, 1),
    )


def batch_of(prompts: list[Prompt], capacity: int, windows: int | None = None) -> PromptBatch:
    """A batch padded to `windows` windows, by default as many as its largest prompt has."""
    windows = windows or max(len(prompt.patches) for prompt in prompts)
    return jax.tree.map(jnp.asarray, stack_prompts(prompts, capacity, windows))


def oracle_logits(model, prompt: Prompt, completion: np.ndarray) -> np.ndarray:
    """Logits [T, V] that predict each completion token, from the concatenated sequence; 3-D positions asserted."""
    ids = np.concatenate([prompt.token_ids, completion])
    inputs = {
        "input_ids": torch.tensor(ids[None].astype(np.int64)),
        "mm_token_type_ids": torch.tensor((ids[None] == IMAGE).astype(np.int64)),
    }
    if len(prompt.patches):
        inputs |= oracle_images(prompt)
        positions, _ = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"])
        assert not torch.equal(positions[1], positions[2]), "the oracle fell back to one-dimensional positions"
        np.testing.assert_array_equal(positions[:, 0, : len(prompt.token_ids)], prompt.positions)
    with torch.no_grad():
        logits = model(**inputs).logits[0].numpy()
    return logits[len(prompt.token_ids) - 1 : -1]


def oracle_images(prompt: Prompt) -> dict[str, torch.Tensor]:
    """Undo the window order: patches in processor order, one grid per image."""
    patches, grids = [], []
    for image in range(prompt.window_image.max() + 1):
        chosen = prompt.window_image == image
        positions, mask = prompt.patch_positions[chosen], prompt.patch_mask[chosen]
        rows, columns = (positions[mask].max(axis=0) + 1).tolist()
        layout = window_layout(rows * VISION.patch, columns * VISION.patch, VISION)
        flat = np.zeros((rows * columns, prompt.patches.shape[-1]), np.float32)
        flat[layout.patch_index[layout.mask]] = prompt.patches[chosen][mask]
        patches.append(flat)
        grids.append([1, rows, columns])
    return {"pixel_values": torch.tensor(np.concatenate(patches)), "image_grid_thw": torch.tensor(grids)}

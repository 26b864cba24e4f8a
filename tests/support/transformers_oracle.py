"""The independent oracle: transformers' Qwen2.5-VL with random weights.

Its prompts have noise images of odd sizes.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from tower_values import tower_values
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from segr1_jax.hf.keys import stored_name, table, to_ours
from segr1_jax.hf.load_weights import load_params, read_arch
from segr1_jax.policy.params import STACKED, Params, Policy
from segr1_jax.policy.qwen2_5_vl.inputs import stack_prompts
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.prompt.patches import normalized_levels
from segr1_jax.prompt.positions import mrope_positions
from segr1_jax.prompt.processor_settings import VisionSettings
from segr1_jax.prompt.windows import join_windows, window_layout
from segr1_jax.types import Frame, Prompt

IMAGE, VIDEO, START, END, EOS = 290, 291, 292, 293, 294
VISION = VisionSettings(
    patch=14, temporal_patch=2, merge=2, window=56, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28)
)


def make_oracle(*, tied: bool = True, layers: int = 3) -> Qwen2_5_VLForConditionalGeneration:
    """A small Qwen2.5-VL with weights large enough that every part of it matters."""
    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_heads": 4,
        "window_size": 56,
        "fullatt_block_indexes": [1, 3],
    }
    model = build(text, vision, tied=tied)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.0 if weight.ndim > 1 else 0.5, std=0.2)
    return model


def build(
    text: dict[str, Any], vision: dict[str, Any], *, tied: bool
) -> Qwen2_5_VLForConditionalGeneration:
    """Return a float32 Qwen2.5-VL of these sizes.

    torch's generator is at a known state, for the weights that the caller draws.
    """
    transformers.logging.set_verbosity_error()
    shared = {
        "rope_theta": 1e6,
        "max_position_embeddings": 1000,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
    }
    config = Qwen2_5_VLConfig(
        text_config=text | shared | {"tie_word_embeddings": tied},
        vision_config=vision | {"out_hidden_size": text["hidden_size"]},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).eval().float()


def draw_weights(model: Qwen2_5_VLForConditionalGeneration, gain: float = 1.0) -> None:
    """Maps that scale their input by `gain`, norms around 1, biases of a size to matter.

    Values are bfloat16, as published ones are.
    """
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            weight.data.normal_(std=0.1)  # a tied embedding is the head too: logits of a few units
        elif weight.ndim > 1:
            weight.data.normal_(std=gain * weight[0].numel() ** -0.5)
        else:
            weight.data.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
        weight.data = weight.data.bfloat16().float()


def save_oracle(model: Qwen2_5_VLForConditionalGeneration, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory


def load_pair(directory: Path) -> tuple[Policy, Params]:
    """Our policy with the weights of a saved oracle, on one device."""
    policy = Policy(read_arch(directory))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return policy, load_params(directory, policy, dict.fromkeys(policy.specs, device))


def make_prompt(
    rng: np.random.Generator,
    sizes: list[tuple[int, int]],
    texts: list[int],
    vision: VisionSettings = VISION,
) -> Prompt:
    """Random text tokens around noise images: texts[0] tokens, image, texts[1] tokens, image, ...

    `sizes` are (height, width).
    """
    ids, images = [], []
    for count, size in zip(texts, [*sizes, None], strict=True):
        ids += list(rng.integers(0, 280, count))
        if size:
            images.append(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            ids += [START, *[IMAGE] * vision.image_tokens(*size), END]
    tokens = np.array(ids, np.int32)
    grids = [(height // vision.unit, width // vision.unit) for height, width in sizes]
    positions, next_position = mrope_positions(tokens, grids, IMAGE)
    windows = join_windows(images, vision)
    image_index = np.full(len(tokens), -1, np.int32)
    image_index[tokens == IMAGE] = windows.unit_row
    return Prompt(
        example_id=0,
        token_ids=tokens,
        positions=positions,
        next_position=next_position,
        image_index=image_index,
        patches=windows.patches,
        levels=normalized_levels(vision),
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


def shift_right(batch: PromptBatch, by: int) -> PromptBatch:
    """Move every prefix `by` slots to the right, so that there is padding on its left too."""
    roll = {
        name: jnp.roll(getattr(batch, name), by, axis=-1)
        for name in ("tokens", "positions", "image_index", "mask")
    }
    return batch._replace(**roll)


def oracle_inputs(model, prompt: Prompt, completion: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the inputs of the oracle: the concatenated sequence and the images.

    The 3-D positions are asserted to equal those of the prompt.
    """
    ids = np.concatenate([prompt.token_ids, completion])[None].astype(np.int64)
    inputs = {
        "input_ids": torch.tensor(ids),
        "mm_token_type_ids": torch.tensor((ids == IMAGE).astype(np.int64)),
    }
    if not len(prompt.patches):
        return inputs
    inputs |= oracle_images(
        prompt, dataclasses.replace(VISION, window=model.config.vision_config.window_size)
    )
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )
    assert not torch.equal(positions[1], positions[2]), (
        "the oracle fell back to one-dimensional positions"
    )
    after = np.broadcast_to(prompt.next_position + np.arange(len(completion)), (3, len(completion)))
    np.testing.assert_array_equal(
        positions[:, 0], np.concatenate([prompt.positions, after], axis=1)
    )
    return inputs


def oracle_logits(model, prompt: Prompt, completion: np.ndarray) -> np.ndarray:
    """Logits [T, V] that predict each completion token, from the concatenated sequence."""
    with torch.no_grad():
        logits = model(**oracle_inputs(model, prompt, completion)).logits[0].float().numpy()
    return logits[len(prompt.token_ids) - 1 : -1]


def oracle_images(prompt: Prompt, vision: VisionSettings) -> dict[str, torch.Tensor]:
    """Undo the window order: patches in processor order, one grid per image."""
    patches, grids = [], []
    for image in range(prompt.window_image.max() + 1):
        chosen = prompt.window_image == image
        positions, mask = prompt.patch_positions[chosen], prompt.patch_mask[chosen]
        rows, columns = (positions[mask].max(axis=0) + 1).tolist()
        layout = window_layout(rows * vision.patch, columns * vision.patch, vision)
        values = tower_values(prompt)
        flat = np.zeros((rows * columns, values.shape[-1]), np.float32)
        flat[layout.patch_index[layout.mask]] = values[chosen][mask]
        patches.append(flat)
        grids.append([1, rows, columns])
    return {
        "pixel_values": torch.tensor(np.concatenate(patches)),
        "image_grid_thw": torch.tensor(grids),
    }


def oracle_gradients(model, policy: Policy, prompts: list[Prompt], tokens_BT: np.ndarray) -> Params:
    """Return the gradient of the mean log-probability of one completion per prompt.

    It has our names and our orientation.
    """
    model.zero_grad()
    losses, T = [], tokens_BT.shape[1]
    for prompt, completion in zip(prompts, tokens_BT, strict=True):
        inputs = oracle_inputs(model, prompt, completion)
        logits = model(**inputs).logits[0, -T - 1 : -1]
        logits = logits.index_fill(1, torch.tensor(policy.arch.never_sampled), -torch.inf)
        losses.append(logits.log_softmax(-1).gather(1, inputs["input_ids"][0, -T:, None]))
    torch.cat(losses).mean().backward()
    stored = {
        name: weight.grad.numpy()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad()

    def gradient(name, spec):
        key = table(policy.arch)[name]
        if not name.startswith(STACKED):
            return to_ours(stored[stored_name(key, "nested")], key)
        return np.stack(
            [
                to_ours(stored[stored_name(key, "nested", layer)], key)
                for layer in range(spec.shape[0])
            ]
        )

    return {name: gradient(name, spec) for name, spec in policy.specs.items()}


def gradient_errors(ours: Params, theirs: Params) -> dict[str, float]:
    """Return distance over norm of every weight, layer by layer, the largest first.

    None is left out. No gradient is zero here, not even of a k bias, which softmax would ignore
    without the rotation.
    """
    errors = {}
    for name, their in theirs.items():
        stacked = name.startswith(STACKED)
        for layer, (our, row) in enumerate(
            zip(np.asarray(ours[name]), their, strict=True) if stacked else [(ours[name], their)]
        ):
            norm = np.linalg.norm(row)
            assert norm > 0, f"{name}[{layer}] has no gradient"
            errors[f"{name}[{layer}]" if stacked else name] = float(
                np.linalg.norm(our - row) / norm
            )
    assert np.all(np.isfinite(list(errors.values()))), errors
    return dict(sorted(errors.items(), key=lambda item: -item[1]))

"""Train the nano SAM2 that ships with segr1_jax on the synthetic set, and print its gates.

    python launch/nano_sam2/train.py --out first.safetensors
    python launch/nano_sam2/train.py --start first.safetensors --first-batch 2600 \\
        --steps 1300 --lr 5e-4

The seed is 0. The runs take 15 and 7 minutes on one core of a busy 2-core machine. The shipped
weights were made this way, but the prompts of the first run had no loose boxes, and FILL_BELOW and
OBJECT_ABOVE were 0.35 and 0.6 (prompts.py). On 300 held-out images:

                   first run  second run
    box                0.766       0.778
    above fill         0.228       0.240
    above ellipse      0.164       0.176
    points             0.698       0.726
    stray point       -0.546      -0.562
    negative point    +0.078      +0.083

A box around the whole image should not select the object. Its IoU is 0.45 after the first run and
0.11 after the second.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from gates import measure_gates, report
from prompts import meant_mask, random_layout, random_prompt
from safetensors.torch import save_file

from segr1_jax.data.config import LEVELS, DataConfig
from segr1_jax.data.synthetic import scene
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2, with_box_corners
from segr1_jax.reward.transport.prompts_block import WirePrompt

TRAIN_SEED, SIDE, PROMPTS_PER_IMAGE = 9_000_000, 168, 4
SETS = [DataConfig(level=level, max_objects=3, size=SIDE, seed=TRAIN_SEED) for level in LEVELS]
PIXEL_MEAN, PIXEL_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
# Gives attention logits of about 4 where a prompt and a position coincide.
AIM_GAIN = 2.0
SIZE_WEIGHT, CLIP = 0.02, 0.5
# Pixels; keeps the dice loss finite on empty masks.
EPS = 1.0


def make_batch(step: int, images: int):
    """Return the batch of a step, a pure function of its number.

    It has pixels, point coordinates, point labels, soft target masks and object maps.
    """
    rng = np.random.default_rng((TRAIN_SEED, step))
    layout = random_layout(rng)
    pixels, coords, labels, targets, objects = [], [], [], [], []
    for i in range(images):
        view = scene(SETS[rng.integers(len(SETS))], step * images + i)
        pixels.append(view.image)
        objects.append(np.logical_or.reduce(view.masks)[::2, ::2].astype(np.float32))
        for _ in range(PROMPTS_PER_IMAGE):
            box, points, flags = random_prompt(rng, view.masks, *layout)
            targets.append(meant_mask(view.masks, box, points, flags))
            where, kinds = with_box_corners(WirePrompt(box, points, flags))
            coords.append(where)
            labels.append(kinds)
    return [torch.from_numpy(np.stack(a)) for a in (pixels, coords, labels, targets, objects)]


def predict(model, pixels_B, coords_PK2, labels_PK):
    """Return mask logits (P, 1, h, w) and feature maps (B, C, h, w), finest first.

    There are PROMPTS_PER_IMAGE prompts for each image.
    """
    x = ((pixels_B.permute(0, 3, 1, 2).float() / 255) - PIXEL_MEAN[:, None, None]) / PIXEL_STD[
        :, None, None
    ]
    x = F.interpolate(x, (model.image_size,) * 2, mode="bilinear", antialias=True)
    _, levels, _, sizes = model._prepare_backbone_features(model.forward_image(x))
    levels[-1] = levels[-1] + model.no_mem_embed
    features = [f.permute(1, 2, 0).unflatten(-1, s) for f, s in zip(levels, sizes, strict=True)]
    maps = [f.repeat_interleave(PROMPTS_PER_IMAGE, 0) for f in features]
    sparse, dense = model.sam_prompt_encoder(
        points=(coords_PK2 * (model.image_size / SIDE), labels_PK.int()), boxes=None, masks=None
    )
    logits, *_ = model.sam_mask_decoder(
        image_embeddings=maps[-1],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=False,
        high_res_features=maps[:-1],
    )
    return logits, features


def mask_loss(logits_P1hw, targets_PMM):
    """Return the sum of twice the cross-entropy and the dice loss, each a mean over prompts.

    The cross-entropy is that against the soft target.
    """
    logits = F.interpolate(logits_P1hw, targets_PMM.shape[1:], mode="bilinear")[:, 0]
    entropy = F.binary_cross_entropy_with_logits(logits, targets_PMM)
    probs = logits.sigmoid()
    overlap, total = (probs * targets_PMM).sum((1, 2)), (probs + targets_PMM).sum((1, 2))
    return 2 * entropy + (1 - (2 * overlap + EPS) / (total + EPS)).mean()


def aim_attention(model) -> None:
    """Initialize the decoder so that a prompt and its position attend to each other.

    The inner product of position codes decreases with distance. Equal query and key projections
    keep that product. Independent random projections lose it, and the decoder then ignores prompts
    for tens of thousands of steps.
    """
    transformer = model.sam_mask_decoder.transformer
    crossings = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        crossings += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in crossings:
        torch.nn.init.orthogonal_(attention.q_proj.weight, gain=AIM_GAIN)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight)


def train(args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = build_model(NANO_CONFIG, args.start, postprocessing=False).train().requires_grad_(True)
    if args.start is None:
        aim_attention(model)
    # A temporary head that finds objects without a prompt. It gives the encoder a useful gradient
    # long before the decoder does.
    head = torch.nn.Conv2d(model.hidden_dim // 8, 1, 1)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps, pct_start=0.1
    )
    began, smooth = time.monotonic(), None
    for step in range(args.steps):
        pixels, coords, labels, targets, objects = make_batch(args.first_batch + step, args.images)
        logits, features = predict(model, pixels, coords, labels)
        loss = mask_loss(logits, targets)
        found_logits = F.interpolate(head(features[0]), objects.shape[1:], mode="bilinear")[:, 0]
        optimizer.zero_grad()
        # Keep the embedding as small as the position code: a larger one hides the prompts for good.
        size = SIZE_WEIGHT * (features[-1].square().mean() - 1).square()
        (loss + size + F.binary_cross_entropy_with_logits(found_logits, objects)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 49:
            print(
                f"step {step + 1}/{args.steps} loss {smooth:.4f} {time.monotonic() - began:.0f} s",
                flush=True,
            )
        if step % 100 == 99 or step + 1 == args.steps:
            save(model, args.out)


def save(model, path: Path) -> None:
    """Write float16 weights under a temporary name, then rename."""
    temporary = path.with_suffix(".tmp")
    save_file(
        {name: value.detach().half().contiguous() for name, value in model.state_dict().items()},
        temporary,
    )
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument(
        "--images", type=int, default=8, help="images per step, each with four prompts"
    )
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--start", type=Path, help="initial weights; default: random")
    parser.add_argument(
        "--first-batch",
        type=int,
        default=0,
        help="number of the first batch; with --start, the number of steps before",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=NANO_CHECKPOINT)
    parser.add_argument("--gate-images", type=int, default=300)
    args = parser.parse_args()
    train(args)
    sam2 = Sam2(build_model(NANO_CONFIG, args.out, postprocessing=False))
    print(report(measure_gates(sam2, args.gate_images)))


if __name__ == "__main__":
    main()

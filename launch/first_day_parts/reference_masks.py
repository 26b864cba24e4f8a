"""Make masks with SAM2ImagePredictor on a model that the sam2 package builds.

    python reference_masks.py INPUTS.npz OUT.npz SETTINGS

The script imports nothing of segr1_jax. INPUTS has N.image and, for each of its prompts P, N.P.box,
N.P.points and N.P.labels. OUT gets the joined mask of every image by its number. SETTINGS is the
JSON of the sidecar's config, checkpoint, postprocessing, device and dtype.
"""

import contextlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor


def build(settings: dict) -> torch.nn.Module:
    """Build the model, also from a configuration outside the package or from safetensors.

    build_sam2 supports neither of them.
    """
    config, checkpoint = settings["config"], settings["checkpoint"]
    if Path(config).is_file():
        GlobalHydra.instance().clear()
        initialize_config_dir(str(Path(config).resolve().parent), version_base="1.2")
        config = Path(config).name
    tensors = checkpoint.endswith(".safetensors")
    model = build_sam2(
        config,
        None if tensors else checkpoint,
        device=settings["device"],
        apply_postprocessing=settings["postprocessing"],
    )
    if tensors:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(checkpoint))
    return model


def joined_mask(predictor: SAM2ImagePredictor, inputs: dict, number: int) -> np.ndarray:
    """Return the union of the masks of the prompts of one image."""
    image = inputs[f"{number}.image"]
    predictor.set_image(image)
    joined = np.zeros(image.shape[:2], bool)
    for place in itertools.count():
        prefix = f"{number}.{place}"
        if f"{prefix}.box" not in inputs:
            return joined
        masks, _, _ = predictor.predict(
            point_coords=inputs[f"{prefix}.points"],
            point_labels=inputs[f"{prefix}.labels"],
            box=inputs[f"{prefix}.box"],
            multimask_output=False,
        )
        joined |= masks[0] > 0


def main(arrays: str, out: str, words: str) -> None:
    settings = json.loads(words)
    with np.load(arrays) as file:
        inputs = dict(file)
    device = torch.device(settings["device"])
    predictor = SAM2ImagePredictor(build(settings))
    # The predictor has the feature sizes of 1024 pixels only.
    side = predictor.model.image_size
    predictor._bb_feat_sizes = [(side // stride,) * 2 for stride in (4, 8, 16)]
    half = settings["dtype"] == "bfloat16"
    autocast = torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()
    numbers = [key.split(".")[0] for key in inputs if key.endswith(".image")]
    with torch.inference_mode(), autocast:
        np.savez(out, **{number: joined_mask(predictor, inputs, int(number)) for number in numbers})


if __name__ == "__main__":
    main(*sys.argv[1:])

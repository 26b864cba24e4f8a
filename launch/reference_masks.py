"""Masks of SAM2ImagePredictor, on the sidecar's model. Run by first_day.py under the sidecar's interpreter.

python reference_masks.py SETTINGS.json PROMPTS.npz OUT.npz

SETTINGS: config, checkpoint, postprocessing, device, dtype. PROMPTS: image_0, box_0, points_0, labels_0, image_1, ...
OUT: 0, 1, ...: one boolean mask each, at the image's own size.
"""

import contextlib
import json
import sys
from pathlib import Path


def main(settings: str, prompts: str, out: str) -> None:
    import numpy as np
    import torch
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    from segr1_jax.reward.sam2_model import build_model

    chosen = json.loads(Path(settings).read_text())
    model = build_model(
        chosen["config"], chosen["checkpoint"] or None, postprocessing=chosen["postprocessing"]
    )
    predictor = SAM2ImagePredictor(model.to(chosen["device"]))
    # The package writes down those of 1024 pixels; a smaller model needs its own.
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    kind = torch.device(chosen["device"]).type
    rounded = (
        torch.autocast(kind, torch.bfloat16)
        if chosen["dtype"] == "bfloat16"
        else contextlib.nullcontext()
    )
    masks = {}
    with np.load(prompts) as arrays, torch.inference_mode(), rounded:
        for number in range(sum(name.startswith("image_") for name in arrays)):
            predictor.set_image(arrays[f"image_{number}"])
            found, *_ = predictor.predict(
                point_coords=arrays[f"points_{number}"],
                point_labels=arrays[f"labels_{number}"],
                box=arrays[f"box_{number}"],
                multimask_output=False,
            )
            masks[str(number)] = found[0].astype(bool)
    np.savez(out, **masks)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Compute the logits of transformers from an exported directory.

This script runs alone under an interpreter that has torch: it imports nothing of this package.

python reference_logits.py DIRECTORY INPUTS.npz OUT.npy DTYPE

INPUTS holds the arguments of the model's forward, which computes in DTYPE (float32 or bfloat16) on
the CPU. OUT gets the logits [B, P, V] as float32.
"""

import sys


def main(directory: str, inputs: str, out: str, dtype: str) -> None:
    import inspect

    import numpy as np
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    with np.load(inputs) as arrays:
        arguments = {name: torch.from_numpy(arrays[name]) for name in arrays}
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        directory, dtype=getattr(torch, dtype)
    ).eval()
    known = inspect.signature(
        model.forward
    ).parameters  # transformers 4 has no mm_token_type_ids: it finds the images by their ids
    arguments = {name: value for name, value in arguments.items() if name in known}
    if "pixel_values" in arguments:
        arguments["pixel_values"] = arguments["pixel_values"].to(model.dtype)
    with torch.no_grad():
        np.save(out, model(**arguments).logits.float().numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What transformers computes from an exported directory. Runs alone under an interpreter that has torch: imports nothing of this package.

python reference_logits.py DIRECTORY INPUTS.npz OUT.npy [DTYPE]

DTYPE is torch's name of the dtype to compute in, float32 by default. INPUTS holds the arguments of
the model's forward; OUT gets the float32 logits [P, V] of its one sequence.
"""

import sys


def main(directory: str, inputs: str, out: str, dtype: str = "float32") -> None:
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
    with torch.no_grad():
        if "pixel_values" in arguments:
            arguments["pixel_values"] = arguments["pixel_values"].to(model.dtype)
        np.save(out, model(**arguments).logits[0].float().numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])

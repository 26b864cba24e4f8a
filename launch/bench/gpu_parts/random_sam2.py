"""Write random weights of a SAM2 configuration: its time does not depend on their values.

    python random_sam2.py CONFIG OUT.pt

It runs under the interpreter of the sidecar.
"""

import sys

import torch

from segr1_jax.reward.sidecar.model_files import build_model


def main(config: str, out: str) -> None:
    torch.manual_seed(0)
    torch.save({"model": build_model(config, None, postprocessing=True).state_dict()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

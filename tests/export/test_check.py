"""The check of an export passes on what we write.

It names the difference where the written file is not the policy in memory.
"""

import sys

import pytest
from safetensors.numpy import load_file, save_file

from segr1_jax.config.schema import MeshConfig, PolicyConfig, RunConfig
from segr1_jax.errors import UserError
from segr1_jax.export.check import obstacle, verify_export
from segr1_jax.export.export import run_export
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.infer.load_policy import open_policy
from segr1_jax.prompt.config import PromptConfig


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    make_tiny_policy(folder / "tiny", frame=84)
    config = RunConfig(
        run_dir=str(folder),
        policy=PolicyConfig(path=str(folder / "tiny")),  # computes in bfloat16; the check does not
        prompt=PromptConfig(frame=84, max_tokens=48),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
        eval_batch=24,
    )
    run_export(config, folder / "tiny", folder / "out", layout="nested")
    return open_policy(config, folder / "tiny"), folder / "out"


def test_the_export_checks_itself(exported):
    opened, out = exported
    assert verify_export(opened, out, "") < 1e-4
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert "model.language_model.norm.weight" in load_file(out / "model.safetensors")


def test_a_changed_weight_is_found(exported, tmp_path):
    opened, out = exported
    file = out / "model.safetensors"
    tensors = load_file(file)
    whole = file.read_bytes()
    tensors["model.language_model.layers.0.self_attn.q_proj.weight"][0] *= 1.5
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match="do not use this export"):
        verify_export(opened, out, "")
    file.write_bytes(whole)


def test_an_interpreter_without_torch_is_an_obstacle(exported, tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')  # no site-packages
    bare.chmod(0o755)
    opened, _ = exported
    assert "does not have both torch and transformers" in obstacle(opened.engine.policy, str(bare))
    assert obstacle(opened.engine.policy, "") is None

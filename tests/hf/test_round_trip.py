"""In and out of Hugging Face directories.

Round trips are exact, and transformers opens what is written.
"""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers_oracle import make_prompt, oracle_logits

from segr1_jax.errors import UserError
from segr1_jax.hf.keys import LAYOUTS
from segr1_jax.hf.load_weights import load_params, read_arch
from segr1_jax.hf.safetensors_file import open_checkpoint
from segr1_jax.hf.save_weights import export_policy
from segr1_jax.policy.params import Policy
from segr1_jax.prompt.tokenizer import Tokenizer


def load(directory):
    policy = Policy(read_arch(directory))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return policy, load_params(directory, policy, dict.fromkeys(policy.specs, device))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_is_exact_in_both_layouts(base, layout, tmp_path):
    oracle, directory = base
    policy, params = load(directory)
    out = export_policy(
        params, policy, directory, tmp_path / "out", {"README.md": "card\n"}, layout=layout
    )
    again = load(out)[1]
    for name, value in params.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    reopened = Qwen2_5_VLForConditionalGeneration.from_pretrained(out).eval()
    for (name, ours), (_, theirs) in zip(
        reopened.state_dict().items(), oracle.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    prompt = make_prompt(np.random.default_rng(0), [(56, 84)], [3, 5])
    completion = np.array([5, 6, 7])
    np.testing.assert_array_equal(
        oracle_logits(reopened, prompt, completion), oracle_logits(oracle, prompt, completion)
    )


def test_several_shards_with_index(base, tmp_path, monkeypatch):
    monkeypatch.setattr("segr1_jax.hf.shards.SHARD_BYTES", 100_000)
    _, directory = base
    policy, params = load(directory)
    out = export_policy(params, policy, directory, tmp_path / "out", {})
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].endswith(f"-of-{len(files):05d}.safetensors")
    assert set(
        json.loads((out / "model.safetensors.index.json").read_text())["weight_map"].values()
    ) == set(files)
    for name, value in load(out)[1].items():
        np.testing.assert_array_equal(value, params[name], err_msg=name)


def test_bfloat16_is_read_and_written(base, tmp_path):
    _, directory = base
    policy, params = load(directory)
    half = export_policy(params, policy, directory, tmp_path / "half", {}, dtype="BF16")
    rounded = load(half)[1]
    for name, value in params.items():
        np.testing.assert_array_equal(
            rounded[name], value.astype(jax.numpy.bfloat16).astype(np.float32), err_msg=name
        )
    again = export_policy(rounded, policy, directory, tmp_path / "again", {}, dtype="BF16")
    assert (again / "model.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()


@pytest.mark.parametrize("file", ["shards", "load_weights"])
def test_small_pieces_make_the_same_directory_and_weights(base, tmp_path, monkeypatch, file):
    """Large weights travel in pieces; here every piece is a row or three."""
    _, directory = base
    policy, params = load(directory)
    whole = export_policy(params, policy, directory, tmp_path / "whole", {})
    monkeypatch.setattr(f"segr1_jax.hf.{file}.PIECE_BYTES", 700)
    pieces = export_policy(params, policy, directory, tmp_path / "pieces", {})
    assert (pieces / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    mesh = jax.make_mesh((2, 4), ("layers", "embed"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    for name, spec in policy.specs.items():
        axes = jax.sharding.PartitionSpec(
            *[None] * (len(spec.shape) - 1), "embed" if spec.shape[-1] % 4 == 0 else None
        )
        sharding = jax.sharding.NamedSharding(mesh, axes)
        np.testing.assert_array_equal(
            load_params(pieces, policy, {name: sharding}, None)[name], params[name], err_msg=name
        )


def test_an_export_keeps_dtypes_and_layout_of_its_base(base, tmp_path):
    _, directory = base
    policy, params = load(directory)
    half = export_policy(
        params, policy, directory, tmp_path / "half", {}, dtype="BF16", layout="published"
    )
    again = export_policy(load(half)[1], policy, half, tmp_path / "again", {})
    assert (again / "model.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()


def test_overwrite_replaces_a_model_and_nothing_else(base, tmp_path):
    _, directory = base
    policy, params = load(directory)
    out = export_policy(params, policy, directory, tmp_path / "out", {"old.txt": "old"})
    export_policy(params, policy, directory, out, {"new.txt": "new"}, overwrite=True)
    assert {path.name for path in out.glob("*.txt")} == {"new.txt"}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=r"a directory with config\.json"):
        export_policy(params, policy, directory, tmp_path / "home", {}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_an_existing_target_is_refused_and_kept(base, tmp_path):
    _, directory = base
    policy, params = load(directory)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="does not exist yet"):
        export_policy(params, policy, directory, tmp_path / "out", {})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_sharded_load_holds_eighths(base):
    _, directory = base
    policy = Policy(read_arch(directory))
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    name = "layers.attention.q.kernel"
    params = load_params(
        directory, policy, {key: rows if key == name else whole for key in policy.specs}
    )
    assert params[name].addressable_shards[0].data.shape == (3, 8, 64)
    np.testing.assert_array_equal(np.asarray(params[name]), load(directory)[1][name])


def test_flat_and_nested_configs_are_one_architecture(base, tmp_path):
    """The hub's form: text fields at the top, rope_scaling and rope_theta apart."""
    copy = shutil.copytree(base[1], tmp_path / "flat")
    config = json.loads((copy / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = config | {
        name: value for name, value in text.items() if name not in ("model_type", "architectures")
    }
    flat |= {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": rope,
        "tie_word_embeddings": config["tie_word_embeddings"],
    }
    (copy / "config.json").write_text(json.dumps(flat))
    assert read_arch(copy) == read_arch(base[1])


def test_a_missing_tokenizer_is_named(base, tmp_path):
    with pytest.raises(
        UserError, match=r"tokenizer\.json: expected a fast tokenizer file, got no such file"
    ):
        Tokenizer(shutil.copytree(base[1], tmp_path / "broken"))


def test_open_checkpoint_reads_what_safetensors_reads(base):
    _, directory = base
    theirs = load_file(directory / "model.safetensors")
    ours = open_checkpoint(directory)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor.view(), theirs[name])

"""Checkpoints that are broken or ask for another model: every fault is named."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers_oracle import load_pair

from segr1_jax.errors import UserError
from segr1_jax.hf.load_weights import read_arch


def broken(directory, tmp_path, change):
    copy = shutil.copytree(directory, tmp_path / "broken")
    file = copy / "model.safetensors"
    tensors = load_file(file)
    change(copy, tensors)
    if file.exists() and tensors:
        save_file(tensors, file)
    return copy


def test_everything_wrong_is_reported_at_once(base, tmp_path):
    _, directory = base

    def change(_, tensors):
        tensors.pop(next(name for name in tensors if "norm1" in name))
        tensors["surprise"] = np.zeros(3, np.float32)
        name = next(name for name in tensors if name.endswith("model.norm.weight"))
        tensors[name] = np.zeros(7, np.float32)

    with pytest.raises(UserError) as error:
        load_pair(broken(directory, tmp_path, change))
    for part in ("missing", "norm1", "unexpected surprise", "(7,), not (64,)"):
        assert part in str(error.value)


def cut_file(copy, tensors):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    tensors.clear()


def huge_header(copy, tensors):
    (copy / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    tensors.clear()


def remove_weights(copy, tensors):
    (copy / "model.safetensors").unlink()
    tensors.clear()


def other_architecture(copy, _):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps(config | {"model_type": "llama", "architectures": ["Llama"]})
    )


def bad_json(copy, _):
    (copy / "config.json").write_text("{")


def missing_shard(copy, tensors):
    weight_map = dict.fromkeys(tensors, "model-00001-of-00002.safetensors") | {
        next(iter(tensors)): "model-00002-of-00002.safetensors"
    }
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    tensors.clear()


def extra_key(_, tensors):
    tensors["model.layers.99.extra"] = np.zeros(3, np.float32)


def wrong_shape(_, tensors):
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name][:, :-1].copy()


def wrong_dtype(_, tensors):
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name].astype(np.int8)


def untied_where_tied(copy, tensors):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(_with_tied_head(config)))
    tensors["lm_head.weight"] = (
        next(value for name, value in tensors.items() if "embed_tokens" in name) + 1
    )


def _with_tied_head(config):
    return {
        name: _with_tied_head(value) if isinstance(value, dict) else value
        for name, value in config.items()
    } | {"tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (missing_shard, "model-00002-of-00002.safetensors.*no such file"),
        (extra_key, "unexpected model.layers.99.extra"),
        (wrong_shape, "q_proj.weight is .*, not "),
        (wrong_dtype, "q_proj.weight: expected one of F32, F16, BF16, got I8"),
        (untied_where_tied, "a different head.*tie_word_embeddings"),
        (cut_file, "truncated"),
        (huge_header, "header"),
        (remove_weights, "no such file"),
        (other_architecture, "config.json: model_type: expected qwen2_5_vl, got llama"),
        (bad_json, "a JSON file"),
    ],
)
def test_broken_checkpoints_name_the_fault(base, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        load_pair(broken(base[1], tmp_path, change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            "rope of type mrope or default, got .*yarn",
        ),
        ({"hidden_act": "gelu"}, "hidden_act silu, got gelu"),
        ({"use_sliding_window": True}, "no sliding window"),
    ],
)
def test_what_the_policy_does_not_compute_is_refused(base, tmp_path, change, words):
    """YaRN, another activation, sliding windows.

    A config that asks for them would get another model's numbers.
    """
    copy = shutil.copytree(base[1], tmp_path / "other")
    config = json.loads((copy / "config.json").read_text())
    text = config["text_config"]
    text |= {
        name: (text[name] | value if isinstance(value, dict) else value)
        for name, value in change.items()
    }
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        read_arch(copy)

"""Hugging Face directories that are damaged or made to harm.

One sentence that names the file, no crash, no wrong weights.
"""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from segr1_jax.errors import UserError
from segr1_jax.hf.load_weights import load_params, read_arch
from segr1_jax.hf.safetensors_file import INDEX, SINGLE, open_checkpoint, read_header
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.policy.params import Policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("hostile") / "tiny", seed=1, frame=84)


@pytest.fixture
def directory(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "policy")


def write_safetensors(path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(begin: int, end: int, shape=(2,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HEADERS = {
    "negative offset": {"a": entry(-8, 0)},
    "overlap": {"a": entry(0, 8), "b": entry(4, 12), "c": entry(12, 16, (1,))},
    "same bytes twice": {"a": entry(0, 8), "b": entry(0, 8), "c": entry(8, 16)},
    "hole": {"a": entry(0, 4, (1,)), "b": entry(8, 16)},
    "bytes left over": {"a": entry(0, 8)},
    "negative shape": {"a": entry(0, 16, (-2, -2))},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 16]}},
    "shape of text": {"a": entry(0, 16, ("4",))},
    "one offset": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}},
    "offsets of text": {"a": {"dtype": "F32", "shape": [4], "data_offsets": ["0", "16"]}},
    "dtype of a list": {"a": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}},
    "entry of a number": {"a": 3},
    "header of a list": [1, 2],
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path, fault):
    file = tmp_path / SINGLE
    write_safetensors(file, HEADERS[fault], bytes(16))
    with pytest.raises((SafetensorError, TypeError)):  # what the safetensors package thinks of it
        safe_open(file, "np")
    with pytest.raises(UserError, match=SINGLE):
        read_header(file)


def test_the_order_of_a_header_is_free(tmp_path):
    file = tmp_path / SINGLE
    data = np.arange(4, dtype=np.float32).tobytes()
    write_safetensors(file, {"b": entry(8, 16), "a": entry(0, 8)}, data)
    assert read_header(file)["b"].view().tolist() == [2, 3]


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", 3])
def test_an_index_stays_in_its_directory(tmp_path, name):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=INDEX):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(directory, value, dtype):
    stored = {name: np.array(t.view()) for name, t in open_checkpoint(directory).items()}
    name = next(name for name in stored if "mlp.down_proj" in name)
    stored[name][-1, -1] = value
    save_file(stored, directory / SINGLE, {"format": "pt"})
    policy = Policy(read_arch(directory))
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with pytest.raises(UserError, match="not finite"):
        load_params(directory, policy, dict.fromkeys(policy.specs, where), dtype)


def mutations(value):
    yield from ([], None, "x", {}, -1, 10**30, [[]])
    if isinstance(value, dict):
        for key in value:
            yield {name: each for name, each in value.items() if name != key}
            for wrong in (None, "x", -1, 0, 2.5, [], {}, 10**30, True):
                yield value | {key: wrong}
        for key, inner in value.items():
            if isinstance(inner, dict):
                yield from (value | {key: each} for each in mutations(inner) if each != inner)


JSON_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json")


def fault_of(directory) -> str | None:
    """The sentence that opening the directory ends in; None where it opens."""
    try:
        read_arch(directory)
        PromptBuilder.from_directory(str(directory), PromptConfig(frame=84))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", JSON_FILES)
def test_damaged_json_ends_in_a_sentence(directory, name):
    """Whatever a value is replaced by: a sentence, or a directory that is still a policy's."""
    file = directory / name
    value = json.loads(file.read_text())
    for text in [*map(json.dumps, mutations(value)), "{", "", "\0", '"\\ud800"', "NaN"]:
        file.write_text(text)
        fault = fault_of(directory)
        assert fault is None or str(directory) in fault or "prompt." in fault, text


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(directory, name):
    (directory / name).unlink()
    assert str(directory / name) in fault_of(directory)

"""The settings of a policy directory, as the hub and as transformers 5.24 write them."""

import json

import pytest

from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.prompt.processor_settings import read_vision_settings


@pytest.fixture
def directory(tmp_path):
    make_tiny_policy(tmp_path / "tiny", seed=0)
    return tmp_path / "tiny"


@pytest.fixture
def joint(directory):
    """What transformers 5.24 saves: processor_config.json alone, the processors in it by name."""
    image = json.loads((directory / "preprocessor_config.json").read_text())
    video = image | {"image_mean": [0.0] * 3, "image_std": [9.0] * 3}
    record = {"image_processor": image, "video_processor": video}
    (directory / "processor_config.json").write_text(json.dumps(record))
    return directory


def test_processor_config_alone_gives_the_same_settings(joint):
    expected = read_vision_settings(joint)
    (joint / "preprocessor_config.json").unlink()
    assert read_vision_settings(joint) == expected


def test_the_image_processors_own_file_comes_first(joint):
    (joint / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor"}')
    assert read_vision_settings(joint).mean == pytest.approx((0.481, 0.458, 0.408), abs=1e-3)


def test_without_settings_of_images_the_file_is_named(joint):
    (joint / "preprocessor_config.json").unlink()
    (joint / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor"}')
    with pytest.raises(UserError, match=r"processor_config\.json: expected the field image_proc"):
        read_vision_settings(joint)
    (joint / "processor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json: expected a JSON file"):
        read_vision_settings(joint)

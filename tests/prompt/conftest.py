"""The real Qwen2.5-VL tokenizer, where the shared folder is at hand."""

import pytest

from segr1_jax.prompt.processor_settings import VisionSettings

QWEN_MEAN, QWEN_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="session")
def qwen_directory(shared):
    return shared / "data/tokenizer/qwen2_5_vl"


@pytest.fixture(scope="session")
def vision():
    return VisionSettings(
        patch=14, temporal_patch=2, merge=2, window=112, mean=QWEN_MEAN, std=QWEN_STD
    )

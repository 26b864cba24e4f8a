"""The head of a model card, read back by the client of the Hub."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.errors import UserError
from segr1_jax.export.card_metadata import card_metadata
from segr1_jax.export.model_card import adapter_card, model_card, settings
from segr1_jax.policy.config import LoraConfig
from segr1_jax.reward.config import RewardConfig
from segr1_jax.runtime.initial_weights import Start

COMMIT, OTHER = "a" * 40, "b" * 40
CARD = "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n---\n# Base\n"
FIGURES = {"iou": 0.8123456789, "iou_se": 0.01, "s_measure": 0.9, "mae": float("nan")}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the Hub with the snapshot of a base, and a run beside it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    base = tmp_path / f"hub/models--Qwen--Base--VL/snapshots/{COMMIT}"
    base.mkdir(parents=True)
    (base / "README.md").write_text(CARD)
    (tmp_path / "run/eval").mkdir(parents=True)
    (tmp_path / "run/eval/step_000007.json").write_text(json.dumps(FIGURES))
    return tmp_path


def config_of(cache: Path) -> RunConfig:
    data = f"{cache}/hub/datasets--me--fish/snapshots/{OTHER}"
    weights = f"{cache}/hub/models--facebook--sam2.1-hiera-large/snapshots/{OTHER}/large.pt"
    sam2 = "configs/sam2.1/sam2.1_hiera_l.yaml"
    return RunConfig(
        data=DataConfig(kind="hub", path=data, split="train"),
        eval_data=DataConfig(kind="hub", path=data, split="test"),
        reward=RewardConfig(sam2_config=sam2, sam2_checkpoint=weights),
    )


def base_of(cache: Path) -> str:
    return str(next(cache.glob("hub/models--Qwen--Base--VL/snapshots/*")))


def test_the_card_names_base_license_data_and_figures(cache):
    start = Start(base_of(cache), str(cache / "run/checkpoints"), 7, Start(base_of(cache)))
    text = model_card(config_of(cache), cache / "run", start)
    data = ModelCard(text).data
    assert (data.base_model, data.datasets) == ("Qwen/Base--VL", ["me/fish"])
    assert (data.license, data.license_name, data.license_link) == (
        "other",
        "qwen-research",
        "LICENSE",
    )
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-text-to-text")
    assert "seg-r1" in data.tags
    results = {each.metric_type: each for each in data.eval_results}
    assert set(results) == {"mean_iou", "s_measure"}  # no figure that is no number
    iou = results["mean_iou"]
    assert (iou.metric_value, iou.dataset_type, iou.dataset_split, iou.dataset_revision) == (
        0.812346,
        "me/fish",
        "test",
        OTHER,
    )
    assert f"from Qwen/Base--VL@{COMMIT}, on me/fish@{OTHER} data" in text
    assert f"Its reward was given by facebook/sam2.1-hiera-large@{OTHER}." in text
    assert str(cache) not in text
    known = json.loads(settings(config_of(cache), {}))
    assert known["sam2"] == [f"facebook/sam2.1-hiera-large@{OTHER}"]
    assert known["postprocessing"]


def test_a_local_base_without_a_card_states_nothing(tmp_path):
    data = ModelCard(card_metadata(RunConfig(), tmp_path, Start(str(tmp_path)))).data
    assert (data.base_model, data.license, data.datasets, data.eval_results) == (None,) * 4
    known = json.loads(settings(RunConfig(), {}))
    assert known["sam2"] is None
    assert not known["postprocessing"]  # as the sidecar builds the nano SAM2


def test_a_base_whose_card_is_no_card(tmp_path):
    (tmp_path / "README.md").write_text("---\n- a list\n---\n")
    with pytest.raises(UserError, match=r"expected a model card with YAML"):
        card_metadata(RunConfig(), tmp_path, Start(str(tmp_path)))


def test_the_card_of_an_adapter_names_the_repository(cache):
    start = Start(base_of(cache), "c", 7, Start(base_of(cache)), LoraConfig(rank=4))
    card = ModelCard(adapter_card(replace(config_of(cache)), start))
    assert (card.data.base_model, card.data.library_name) == ("Qwen/Base--VL", "peft")

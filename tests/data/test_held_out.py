"""Held-out samples as a rule of the configuration: nothing but the data set itself is needed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from segr1_jax.config.checks import check_rules
from segr1_jax.config.loading import load_config
from segr1_jax.data.config import DataConfig
from segr1_jax.data.sets.toy import write_toy_sets
from segr1_jax.data.sources import limited, open_source
from segr1_jax.errors import UserError

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "configs").glob("*/*.yaml")
    if load_config(path).data.kind == "published"
)
IMAGES = 40


@pytest.fixture
def manifest(tmp_path) -> DataConfig:
    """Two sentences about each of 40 images; pictures are not opened."""
    path = tmp_path / "all.jsonl"
    lines = [
        json.dumps({"image": f"{number:02d}.jpg", "mask": "m.png", "instruction": words})
        for words in ("the left one", "the right one")
        for number in range(IMAGES)
    ]
    path.write_text("\n".join(lines) + "\n")
    return DataConfig(kind="jsonl", manifest=str(path), hold_out=0.1)


def images(config: DataConfig, part: str) -> list[str]:
    return [entry.image.name for entry in open_source(replace(config, part=part)).entries]


def test_an_image_is_on_one_side_with_all_its_sentences(manifest):
    train, held_out = images(manifest, "train"), images(manifest, "held_out")
    assert len(set(held_out)) == 4
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(images(manifest, "all"))


def test_another_spelling_of_a_path_is_on_the_side_of_its_image(manifest):
    path = Path(manifest.manifest)
    for folder in ("x/..", path.parent):
        lines = [
            json.dumps({"image": f"{folder}/{number:02d}.jpg", "mask": "m.png"})
            for number in range(IMAGES)
        ]
        path.write_text(path.read_text() + "\n".join(lines) + "\n")
    assert not set(images(manifest, "train")) & set(images(manifest, "held_out"))


def test_the_draw_follows_the_seed_alone(manifest):
    first = images(manifest, "held_out")
    assert images(manifest, "held_out") == first
    assert images(replace(manifest, hold_out_seed=1), "held_out") != first


def test_an_image_more_moves_few_others(manifest):
    before = set(images(manifest, "held_out"))
    with Path(manifest.manifest).open("a") as file:
        file.write(json.dumps({"image": "new.jpg", "mask": "m.png"}) + "\n")
    assert len(before - set(images(manifest, "held_out"))) <= 1


def test_two_draws_of_one_set_are_refused(manifest):
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart_grpo.yaml"
    run = load_config(quickstart)
    train, held_out = (replace(manifest, part=part) for part in ("train", "held_out"))
    check_rules(replace(run, data=train, eval_data=held_out))
    for other in (replace(held_out, hold_out=0.2), replace(held_out, hold_out_seed=3)):
        with pytest.raises(UserError, match=r"eval_data\.hold_out"):
            check_rules(replace(run, data=train, eval_data=other))


def test_a_part_needs_a_share_and_files():
    with pytest.raises(UserError, match="hold_out"):
        DataConfig(kind="jsonl", part="train")
    with pytest.raises(UserError, match="image files"):
        open_source(DataConfig(part="train", hold_out=0.1))


def test_a_limit_spreads_over_the_set():
    whole = open_source(DataConfig(count=10, size=28))
    some = limited(whole, 4)
    assert [name[-1] for name in some.names] == ["0", "2", "5", "7"]
    assert [some[index].id for index in range(4)] == [0, 1, 2, 3]
    assert [some[index].name for index in range(4)] == some.names
    assert limited(whole, 0) is limited(whole, 10) is whole


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    write_toy_sets(root, seed=0)
    return root


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_need_data_sets_alone(path, toy):
    config = load_config(path)
    train, held_out = (
        open_source(replace(data, root=str(toy))) for data in (config.data, config.eval_data)
    )
    assert len(train) > 0
    assert len(held_out) > 0
    if config.data.set == config.eval_data.set:
        assert not set(train.names) & set(held_out.names)

"""Names on the Hub as local files of recorded commits, and back. The cache is made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from segr1_jax.config.loading import dump_config, load_config
from segr1_jax.config.portable import portable
from segr1_jax.config.resume_rules import check_resumable, config_hash, refused_changes
from segr1_jax.config.schema import PolicyConfig, RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport.command import model_settings
from segr1_jax.runtime.hub_files import at_recorded_commits, local_source, with_local_files
from segr1_jax.runtime.initial_weights import Start, record_start, recorded_start
from segr1_jax.runtime.run_directory import RunDir, make_run_dir

pytest.importorskip("datasets", reason="needs the extra hub")
OLD, NEW = "a" * 40, "b" * 40


def write_cache(cache: Path) -> None:
    """Two commits of a policy, a SAM2 and a data set; their branch main is at the newer one."""
    contents = {
        "models--me--tiny": ("config.json", "model.safetensors"),
        "models--facebook--sam2.1-hiera-tiny": ("sam2.1_hiera_tiny.pt",),
        "datasets--me--fish": ("data/train.parquet",),
    }
    for repository, files in contents.items():
        for commit in (OLD, NEW):
            for file in files:
                place = cache / repository / "snapshots" / commit / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("{}")
        (cache / repository / "refs").mkdir()
        (cache / repository / "refs/main").write_text(NEW)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    write_cache(tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def config_of(run: Path) -> RunConfig:
    return RunConfig(
        run_dir=str(run),
        policy=PolicyConfig(path="me/tiny@main"),
        data=DataConfig(kind="hub", path="me/fish", split="train"),
        eval_data=DataConfig(kind="hub", path="me/fish", split="test"),
        reward=RewardConfig(sam2="facebook/sam2.1-hiera-tiny"),
    )


def begin(config: RunConfig) -> RunDir:
    directory = make_run_dir(config)
    directory.metrics.write_text('{"step": 1}\n')
    return directory


def test_every_name_becomes_files_and_back(cache, tmp_path):
    local = with_local_files(config_of(tmp_path / "run"))
    assert local.policy.path == f"{cache}/models--me--tiny/snapshots/{NEW}"
    assert local.data.path == local.eval_data.path == f"{cache}/datasets--me--fish/snapshots/{NEW}"
    assert local.reward.sam2 == ""
    assert local.reward.sam2_config == "configs/sam2.1/sam2.1_hiera_t.yaml"
    assert Path(local.reward.sam2_checkpoint).is_file()
    recorded = portable(local)
    assert recorded.policy.path == f"me/tiny@{NEW}"
    assert recorded.data.path == f"me/fish@{NEW}"
    assert recorded.reward == RewardConfig(sam2=f"facebook/sam2.1-hiera-tiny@{NEW}")
    assert recorded.commits == {
        "me/tiny@main": NEW,
        "datasets/me/fish": NEW,
        "facebook/sam2.1-hiera-tiny": NEW,
    }


def test_only_the_sections_that_a_command_needs(cache, tmp_path):
    local = with_local_files(config_of(tmp_path / "run"), ["eval_data"])
    assert (local.policy.path, local.data.path) == ("me/tiny@main", "me/fish")
    assert local.eval_data.path == f"{cache}/datasets--me--fish/snapshots/{NEW}"
    nothing = RunConfig()
    assert with_local_files(nothing) is nothing


def test_a_run_that_has_begun_keeps_its_commits(cache, tmp_path):
    config = config_of(tmp_path / "run")
    for ref in cache.glob("*/refs/main"):
        ref.write_text(OLD)
    before = with_local_files(config)
    make_run_dir(before)
    for ref in cache.glob("*/refs/main"):
        ref.write_text(NEW)
    # Nothing was computed yet, so the run may still start from the newer commits.
    assert portable(with_local_files(config)).policy.path == f"me/tiny@{NEW}"
    begin(before)
    again = with_local_files(config)
    assert again == before
    check_resumable(load_config(tmp_path / "run/config.yaml"), again, tmp_path / "run", done=None)
    assert portable(with_local_files(config_of(tmp_path / "other"))).policy.path == f"me/tiny@{NEW}"
    # Another revision is another run, although its commit is in the cache too.
    other = replace(config, policy=PolicyConfig(path=f"me/tiny@{NEW}"))
    (refused,) = refused_changes(before, with_local_files(other))
    assert refused == f"policy.path: 'me/tiny@{OLD}' -> 'me/tiny@{NEW}'"


def test_the_configuration_of_a_run_gets_the_commits_of_the_run(cache, tmp_path):
    """An export names them and the hash of the run, whichever of the two it is started from."""
    config = config_of(tmp_path / "run")
    assert at_recorded_commits(config) == config
    begin(with_local_files(config))
    cache.rename(tmp_path / "no_cache_is_needed")
    named, run = at_recorded_commits(config), load_config(tmp_path / "run")
    assert named.reward.sam2 == f"facebook/sam2.1-hiera-tiny@{NEW}"
    assert named.data.path == named.eval_data.path == f"me/fish@{NEW}"
    assert config_hash(named) == config_hash(run) != config_hash(config)
    assert at_recorded_commits(run) == run


def test_the_hash_and_the_start_do_not_depend_on_the_place_of_the_cache(
    cache, tmp_path, monkeypatch
):
    config = with_local_files(config_of(tmp_path / "run"))
    first_hash, directory = config_hash(config), begin(config)
    record_start(directory, Start(config.policy.path))
    text = dump_config(portable(config))
    elsewhere = cache.rename(tmp_path / "moved_cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(elsewhere))
    again = with_local_files(config_of(tmp_path / "run"))
    assert again.policy.path.startswith(str(elsewhere))
    assert (config_hash(again), dump_config(portable(again))) == (first_hash, text)
    assert recorded_start(again).base == f"{elsewhere}/models--me--tiny/snapshots/{NEW}"


def test_a_configuration_beside_weights_of_the_cache_stays(cache, tmp_path):
    (tmp_path / "own.yaml").write_text("model: {}")
    weights = f"{cache}/models--facebook--sam2.1-hiera-tiny/snapshots/{NEW}/sam2.1_hiera_tiny.pt"
    own = RewardConfig(sam2_config=str(tmp_path / "own.yaml"), sam2_checkpoint=weights)
    assert portable(RunConfig(reward=own)).reward == own


def test_a_cache_behind_a_link(cache, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "link"))
    local = with_local_files(config_of(tmp_path / "run"))
    assert portable(local).policy.path == f"me/tiny@{NEW}"
    assert portable(local).reward.sam2 == f"facebook/sam2.1-hiera-tiny@{NEW}"


def test_a_sam2_that_is_no_name_is_never_the_nano_one(tmp_path):
    wrong = RunConfig(reward=RewardConfig(sam2="sam2.1_hiera_l"))
    with pytest.raises(UserError, match=r"reward.sam2: expected ORG/NAME"):
        with_local_files(wrong, ["reward"])
    with pytest.raises(ValueError, match="with_local_files"):
        model_settings(config_of(tmp_path).reward)


def test_a_source_by_name_or_by_path(cache, tmp_path):
    found = local_source(Path("me/tiny@main"), "--source")
    assert found == cache / "models--me--tiny/snapshots" / NEW
    assert local_source(tmp_path, "--source") == tmp_path
    with pytest.raises(UserError, match="--source = me/absent: "):
        local_source(Path("me/absent"), "--source")


@pytest.mark.parametrize("commits", [{"me/tiny": 3}, {"me/tiny": "main"}])
def test_commits_are_hashes(commits):
    with pytest.raises(UserError, match="commits: expected hashes of commits"):
        RunConfig(commits=commits)

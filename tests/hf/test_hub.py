"""Repositories on a hub at 127.0.0.1, read by the real client in child processes."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_server import Hub, Repository, client_environment, in_child, serving
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

from segr1_jax.common.hub_ids import HubId, hub_id
from segr1_jax.hf.hub import SAM2_REPOSITORIES

NOBODY = "http://127.0.0.1:9"
WEIGHTS = bytes(range(256)) * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "original/consolidated.safetensors": b"not ours",
}
LARGE = "facebook/sam2.1-hiera-large"
SMALL_FILES = (
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
)


def policy(name: str) -> str:
    return f"from segr1_jax.hf.hub import local_policy; print(local_policy('{name}'))"


def sam2(name: str) -> str:
    return f"from segr1_jax.hf.hub import local_sam2; print(*local_sam2('{name}'))"


# A process of its own each, for what the client reads when it is imported.
ONLINE = {
    "policy": policy("me/tiny"),
    "branch": policy("me/tiny@main"),
    "commit": policy("me/tiny@{commit}"),
    "known sam2": sam2(LARGE),
    "own sam2": sam2("me/nano"),
    "two configs": sam2("me/two"),
    "gated": policy("me/gated"),
    "revision": policy("me/tiny@v9"),
    "unknown": policy("me/unknown"),
    "short file": policy("me/short"),
    "no safetensors": policy("me/pickles"),
    "full disk": SMALL_FILES + policy("me/other"),
}
OFFLINE = {
    "policy offline": policy("me/tiny"),
    "commit offline": policy("me/tiny@{commit}"),
    "own sam2 offline": sam2("me/nano"),
    "absent offline": policy("me/absent"),
}


class Answers(dict[str, str]):
    """What the client printed by name of the case; requests that the hub saw for each file."""

    commit: str
    asked: Counter[str]


def fill(hub: Hub) -> Repository:
    hub.add(LARGE, {"sam2.1_hiera_large.pt": WEIGHTS, "model.safetensors": b"", "a.yaml": b""})
    hub.add("me/nano", {"nano.yaml": b"model: {}", "nano.safetensors": WEIGHTS, "README.md": b""})
    hub.add("me/two", {"a.yaml": b"", "b.yaml": b"", "c.pt": b""})
    hub.add("me/gated", FILES).gated = True
    hub.add("me/short", FILES).cut["model.safetensors"] = "sized"
    hub.add("me/pickles", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    # Another content than that of me/tiny, so that nothing of it is in the cache.
    hub.add("me/other", FILES | {"model.safetensors": WEIGHTS + WEIGHTS})
    return hub.add("me/tiny", FILES)


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> Answers:
    home, answers = tmp_path_factory.mktemp("hub"), Answers()
    with serving() as hub:
        answers.commit = fill(hub).branches["main"]

        def ask(cases: dict[str, str], url: str, **more: str) -> None:
            codes = [code.replace("{commit}", answers.commit) for code in cases.values()]
            printed = in_child(codes, client_environment(url, home, **more))
            answers.update(zip(cases, printed, strict=True))

        ask(ONLINE, hub.url)
        answers.asked = hub.asked.copy()
        ask(OFFLINE, hub.url, HF_HUB_OFFLINE="1")
        assert hub.asked == answers.asked
    ask({"no network": policy("me/absent")}, NOBODY)
    return answers


def test_a_policy_comes_without_pickles_and_without_subfolders(answers):
    folder = Path(answers["policy"])
    assert folder.parts[-3:] == ("models--me--tiny", "snapshots", answers.commit)
    found = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: FILES[name] for name in ("config.json", "model.safetensors")}


def test_a_branch_and_its_commit_are_one_download(answers):
    assert answers["branch"] == answers["commit"] == answers["policy"]
    assert answers.asked[f"GET /me/tiny/resolve/{answers.commit}/model.safetensors"] == 1
    # Asked for the name without a revision and for the branch, but not for the commit.
    revisions = [asked for asked in answers.asked.elements() if "/api/models/me/tiny" in asked]
    assert len(revisions) == 3 + 1, revisions  # with the wrong revision, and one list of the files


def test_offline_the_cache_answers(answers):
    assert answers["policy offline"] == answers["commit offline"] == answers["policy"]
    assert answers["own sam2 offline"] == answers["own sam2"]


def test_a_known_sam2_is_a_name_inside_the_package_and_its_weights(answers):
    config, weights = answers["known sam2"].split()
    assert config == "configs/sam2.1/sam2.1_hiera_l.yaml"
    assert Path(weights).read_bytes() == WEIGHTS
    assert SAM2_REPOSITORIES == HF_MODEL_ID_TO_FILENAMES


def test_another_sam2_is_one_yaml_and_one_file_of_weights(answers):
    config, weights = answers["own sam2"].split()
    assert Path(config).read_bytes() == b"model: {}"
    assert Path(weights).read_bytes() == WEIGHTS
    told = "expected one .yaml and one .pt or .safetensors, got a.yaml, b.yaml, c.pt"
    assert told in answers["two configs"]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("no network", f"expected {NOBODY} to answer, the whole repository in the cache, or"),
        ("absent offline", "unset HF_HUB_OFFLINE, or fill the cache"),
        ("gated", "got a gated one, which this token may not read. Remedy: accept its conditions"),
        ("revision", "expected a branch, tag or commit of the repository, got 'v9'"),
        ("unknown", "got no model at "),
        ("full disk", "got File too large. Remedy: free some space, or set HF_HOME"),
        ("short file", "expected whole files, got a truncated one"),
        ("no safetensors", "got no *.safetensors in it"),
    ],
)
def test_a_fault_is_one_sentence_with_a_remedy(answers, case, told):
    assert answers[case].startswith("UserError policy.path = me/")
    assert told in answers[case]
    assert answers[case].count("Remedy: ") == 1
    assert len(answers[case].splitlines()) == 1


@pytest.mark.slow
def test_a_connection_that_ends_early_is_a_truncated_file(tmp_path):
    """The client resumes such a download five times, a second apart."""
    with serving() as hub:
        hub.add("me/tiny", FILES).cut["model.safetensors"] = "unsized"
        environment = client_environment(hub.url, tmp_path)
        assert "got a truncated one" in in_child([policy("me/tiny")], environment)[0]


@pytest.mark.slow
def test_processes_that_share_a_cache_download_a_file_once(tmp_path):
    """Eight at once, of which each asks for the branch, the listing and each file."""
    with serving() as hub:
        commit = hub.add("me/tiny", FILES).branches["main"]
        environment = client_environment(hub.url, tmp_path)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: in_child([policy("me/tiny")], environment), range(8)))
        assert len({folder for (folder,) in found}) == 1
        assert hub.asked[f"GET /me/tiny/resolve/{commit}/model.safetensors"] == 1


def test_a_folder_comes_before_a_repository(tmp_path, monkeypatch):
    (tmp_path / "me/tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("me/tiny") is None
    assert hub_id("me/other@v1") == HubId("me/other", "v1")
    for text in ("tiny", "runs/a/b", "./me/other", "/me/other", "me/other@", "me/other@v 1"):
        assert hub_id(text) is None, text

"""Uploads to a hub at 127.0.0.1 by the real client in child processes."""

from pathlib import Path

import pytest
from hub_server import TOKEN, client_environment, in_child, serving

PUSH = """
from pathlib import Path
from segr1_jax.hf.hub_push import check_push, push_folder
print(push_folder(Path({folder!r}), check_push({target!r}), "Export", private={private}))
"""


def push(folder: Path, target: str, *, private: bool = False) -> str:
    return PUSH.format(folder=str(folder), target=target, private=private)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("push") / "export"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    return folder


def test_a_push_creates_the_repository_and_replaces_older_shards(folder, tmp_path):
    with serving() as hub:
        old = {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"kept"}
        hub.add("me/old", old)
        environment = client_environment(hub.url, tmp_path, HF_TOKEN=TOKEN)
        codes = [push(folder, "me/new", private=True), push(folder, "me/old")]
        new, again = in_child(codes, environment)
        ours = {path.name: path.read_bytes() for path in folder.iterdir()}
        pushed = hub.repositories["model", "me/new"]
        assert pushed.private
        assert pushed.files_at("main") == ours
        assert new == f"{hub.url}/me/new/commit/{pushed.branches['main']}"
        replaced = hub.repositories["model", "me/old"]
        assert replaced.files_at("main") == ours | {"notes.txt": b"kept"}
        assert replaced.branches["main"] in again


def test_a_push_that_cannot_work_is_refused_first(folder, tmp_path):
    with serving() as hub:
        refused = in_child(
            [push(folder, "me/new"), push(folder, "new"), push(folder, "me/new@v1")],
            client_environment(hub.url, tmp_path, HF_TOKEN="hf_of_somebody"),
        )
        (anonymous,) = in_child([push(folder, "me/new")], client_environment(hub.url, tmp_path))
        assert not hub.repositories
    for text in (refused[0], anonymous):
        assert text.startswith("UserError --push = me/new: expected a token")
        assert "`hf auth login`" in text
    for text in refused[1:]:
        assert text.startswith("UserError --push: expected ORG/NAME of a repository on the Hub")

"""A run whose policy, SAM2 and data come from a hub at 127.0.0.1, and what it pushes there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import TOKEN, Hub, client_environment, serving
from picture_rows import picture_table
from PIL import Image

from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG

datasets = pytest.importorskip("datasets", reason="needs the extra hub")
pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
SFT, GRPO = (str(ROOT / f"configs/quickstart_{stage}.yaml") for stage in ("sft", "grpo"))
ROWS = [
    *("data.kind=hub", "data.path=me/shapes", "data.split=train"),
    *("eval_data.kind=hub", "eval_data.path=me/shapes@main", "eval_data.split=test"),
]
SAM2 = ["reward.sam2=me/nano@main", "reward.postprocessing=false"]
SHORT = [
    *("batch=8", "micro_batches=1", "eval_batch=8", "eval_every=0", "save_every=50"),
    *("prompt.max_tokens=80", "optimizer.warmup_steps=0"),
]


class Client:
    """The command line in a folder, with a cache of its own."""

    def __init__(self, hub: Hub, folder: Path):
        self.hub, self.folder = hub, folder

    def __call__(self, *words: str, status: int = 0, **environment: str) -> str:
        return self.run([sys.executable, "-m", "segr1_jax.cli", *words], status, **environment)

    def run(self, words: list[str], status: int = 0, **environment: str) -> str:
        variables = client_environment(
            self.hub.url,
            self.folder / "hf",
            HF_TOKEN=TOKEN,
            XLA_FLAGS="",
            OMP_NUM_THREADS="1",
            **environment,
        )
        done = subprocess.run(
            words, cwd=self.folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A hub with a tiny policy, the nano SAM2 and a data set, and its client."""
    folder = tmp_path_factory.mktemp("hub_run")
    make_tiny_policy(folder / "tiny", seed=0)
    (folder / "tiny/README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    for split, count, seed in (("train", 48, 1), ("test", 8, 2)):
        table = picture_table(datasets, count, size=168, seed=seed).remove_columns("sentence")
        table.to_parquet(folder / f"shapes/data/{split}-00000-of-00001.parquet")
    nano = {"nano.yaml": NANO_CONFIG.read_bytes(), "nano.safetensors": NANO_CHECKPOINT.read_bytes()}
    with serving() as hub:
        hub.add_folder("me/tiny", folder / "tiny")
        hub.add_folder("me/shapes", folder / "shapes", kind="dataset")
        hub.add("me/nano", nano)
        yield Client(hub, folder)


@pytest.fixture(scope="module")
def trained(client) -> Path:
    """An SFT run long enough for answers that parse, and a GRPO run of two steps from it."""
    client("sft", SFT, "run_dir=sft", "policy.path=me/tiny@main", "steps=150", *SHORT, *ROWS, *SAM2)
    client("train", GRPO, "run_dir=grpo", "policy.path=sft", "steps=2", *SHORT, *ROWS, *SAM2)
    return client.folder


def commit_of(client: Client, name: str, kind: str = "model") -> str:
    return client.hub.repositories[kind, name].branches["main"]


def test_the_run_records_commits_and_no_paths_of_the_cache(client, trained):
    text = (trained / "grpo/config.yaml").read_text()
    data, sam2 = commit_of(client, "me/shapes", "dataset"), commit_of(client, "me/nano")
    assert f"path: me/shapes@{data}" in text
    assert f"sam2: me/nano@{sam2}" in text
    assert "snapshots" not in text
    start = json.loads((trained / "sft/start.json").read_text())
    assert start["base"]["hub"] == f"me/tiny@{commit_of(client, 'me/tiny')}"


def test_what_was_pushed_gives_the_same_masks(client, trained, tmp_path):
    printed = client("export", "grpo", "--out", "export", "--push", "me/pushed", "--no-check")
    pushed = client.hub.repositories["model", "me/pushed"].files_at("main")
    local = {path.name: path.read_bytes() for path in (trained / "export").iterdir()}
    assert pushed == local
    assert f"pushed {client.hub.url}/me/pushed/commit/" in printed
    card = pushed["README.md"].decode()
    for part in ("base_model: me/tiny", "license: mit", "- me/shapes", "type: mean_iou"):
        assert part in card
    outs = {name: tmp_path / name for name in ("run", "hub")}
    client("predict", "grpo", "--count", "8", "--out", str(outs["run"]))
    source = ["--source", "me/pushed@main"]
    client("predict", "grpo", "--count", "8", "--out", str(outs["hub"]), *source)
    lines = [(out / "predictions.jsonl").read_text() for out in outs.values()]
    assert [json.loads(line) for line in lines[0].splitlines()] == [
        json.loads(line) for line in lines[1].splitlines()
    ]
    masks = [sorted((out / "masks").iterdir()) for out in outs.values()]
    assert len(masks[0]) == len(masks[1]) >= 4
    for one, other in zip(*masks, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_script_in_the_repository_gives_the_mask_of_predict(client, trained, tmp_path):
    """It runs beside the weights that the client has downloaded, with the SAM2 of the run."""
    if ("model", "me/pushed") not in client.hub.repositories:
        client("export", "grpo", "--overwrite", "--push", "me/pushed", "--no-check")
    code = "from huggingface_hub import snapshot_download as get; print(get('me/pushed'))"
    folder = client.run([sys.executable, "-c", code], HF_HUB_DISABLE_PROGRESS_BARS="1")
    rows = picture_table(datasets, 8, size=168, seed=2).data.column("image").to_pylist()
    client("predict", "grpo", "--count", "8", "--out", str(tmp_path / "run"))
    lines = (tmp_path / "run/predictions.jsonl").read_text().splitlines()
    row = next(row for row, line in enumerate(lines) if json.loads(line)["status"] == "ok")
    (tmp_path / "image.png").write_bytes(rows[row]["bytes"])
    script = f"{folder.split()[-1]}/segment.py"
    client.run([sys.executable, script, str(tmp_path / "image.png"), str(tmp_path / "mask.png")])
    expected = np.asarray(Image.open(tmp_path / f"run/masks/{row:06d}.png")) > 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")) > 0, expected)


def test_offline_and_with_a_branch_that_has_moved_the_run_goes_on(client, trained):
    words = ["policy.path=sft", *SHORT, *ROWS, *SAM2, "optimizer.schedule=constant"]
    client("train", GRPO, "run_dir=moved", *words, "steps=1")
    repository = client.hub.repositories["dataset", "me/shapes"]
    before, other = commit_of(client, "me/shapes", "dataset"), dict(repository.files_at("main"))
    other["data/train-00000-of-00001.parquet"] = other["data/test-00000-of-00001.parquet"]
    try:
        repository.commit(other | {"notes.txt": b"a newer revision"})
        client("train", GRPO, "run_dir=moved", *words, "steps=2")
        text = (trained / "moved/config.yaml").read_text()
        assert text.count(f"me/shapes@{before}") == 2
        asked = client.hub.asked.copy()
        client("train", GRPO, "run_dir=moved", *words, "steps=3", HF_HUB_OFFLINE="1")
        assert client.hub.asked == asked
        # A run of its own takes the new revision.
        client("train", GRPO, "run_dir=fresh", *words, "steps=1")
        assert before not in (trained / "fresh/config.yaml").read_text()
    finally:
        repository.branches["main"] = before


def test_plan_and_data_check_take_names_on_the_hub(client, trained):
    plan = client("plan", GRPO, "policy.path=me/tiny", "policy.arch=")
    assert "memory" in plan
    checked = client("data", "check", "me/shapes", "--json", "shapes.json")
    assert "me/shapes" in checked
    reports = json.loads((trained / "shapes.json").read_text())
    assert [(each["split"], each["found"], each["problems"]) for each in reports] == [
        ("train", 48, []),
        ("test", 8, []),
    ]

"""The script of an export gives the masks of `segr1 predict`; what the generation config says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.export.model_card import conversations, generation_config, prompt_texts
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.policy.params import Policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.texts import TEXTS_FILE, parse_texts
from segr1_jax.prompt.tokenizer import END_OF_TURN, Tokenizer
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG

ROOT = Path(__file__).parents[2]
IMAGES, FEWEST_MASKS = 10, 5
IMAGES_OF = {"data": 64, "eval_data": 16}
# reward.threads. With more, torch sums in a different order, which can move a pixel at an edge.
AS_THE_SIDECAR = {"OMP_NUM_THREADS": "1"}
SENTENCE = 'the "red" fish'  # quotes must survive the script's JSON
# Long enough for answers that parse; what they say does not matter here. Prompts have room for a
# sentence.
SHORT = [
    "prompt.max_tokens=80",
    "steps=150",
    "eval_batch=16",
    "batch=8",
    "eval_every=0",
    "save_every=150",
]


def segr1(cwd: Path, *words: str) -> None:
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "segr1_jax.cli", *words], cwd=cwd, env=environment, check=True
    )


def write_manifest(folder: Path, split: str) -> Path:
    """A manifest of synthetic images, every other one with the sentence."""
    lines = []
    for index in range(IMAGES_OF[split]):
        example = generate(DataConfig(size=168, seed=len(split)), index)
        image, mask = f"{split}_{index}.png", f"{split}_{index}_mask.png"
        Image.fromarray(example.image).save(folder / image)
        Image.fromarray(example.mask).save(folder / mask)
        lines.append(
            json.dumps(
                {"image": image, "mask": mask} | ({"instruction": SENTENCE} if index % 2 else {})
            )
            + "\n"
        )
    (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder / f"{split}.jsonl"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a run `sft`, its `export`, and photos of several sizes.

    One of them is rotated by EXIF, one has an alpha channel.
    """
    folder = tmp_path_factory.mktemp("card")
    make_tiny_policy(folder / "tiny", seed=0)
    data = [
        f"{split}.{key}"
        for split in ("data", "eval_data")
        for key in ("kind=jsonl", f"manifest={write_manifest(folder, split)}")
    ]
    segr1(
        folder,
        "sft",
        str(ROOT / "configs/quickstart_sft.yaml"),
        "run_dir=sft",
        "policy.path=tiny",
        *SHORT,
        *data,
    )
    segr1(folder, "export", "sft", "--out", "export")
    for index in range(IMAGES):
        picture = Image.fromarray(generate(DataConfig(size=168, seed=5), index).image).resize(
            (120 + 31 * index, 300 - 17 * index)
        )
        exif = picture.getexif()
        exif[0x0112] = 6 if index == 3 else 1
        if index == 5:
            picture.putalpha(picture.convert("L"))
        picture.save(folder / f"{index}.png", exif=exif)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("sentence", [[], [SENTENCE]], ids=["everything", "sentence"])
def test_the_script_gives_the_masks_of_predict(trained, sentence, tmp_path):
    images = [trained / f"{index}.png" for index in range(IMAGES)]
    options = ["--instruction", *sentence] if sentence else []
    segr1(
        trained, "predict", "sft", "--out", str(tmp_path), "--images", *map(str, images), *options
    )
    filled = 0
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    for index, (image, line) in enumerate(zip(images, lines, strict=True)):
        out = tmp_path / f"{index}.png"
        words = [str(image), str(out), "--sam2", str(NANO_CONFIG), str(NANO_CHECKPOINT)]
        words += ["--object", *sentence] if sentence else []
        done = subprocess.run(
            [sys.executable, str(trained / "export/segment.py"), *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | AS_THE_SIDECAR,
        )
        if json.loads(line)["status"] != "ok":
            # The script may read more than well-formed answers, as the card says.
            assert done.returncode == 0 or "holds no mask" in done.stderr
            continue
        assert done.returncode == 0, done.stderr
        expected = np.asarray(Image.open(tmp_path / f"masks/{index}.png")) > 0
        np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)
        filled += bool(expected.any())
    assert filled >= FEWEST_MASKS


def test_an_export_holds_the_texts_of_its_prompts(tmp_path):
    tiny = make_tiny_policy(tmp_path / "tiny", seed=0)
    ours = PromptBuilder.from_directory(tiny, PromptConfig(frame=168))
    assert prompt_texts(ours.config) == {}
    texts = parse_texts({"rl": {"user": "{image}Find {instruction}."}}, "prompt.texts", tmp_path)
    theirs = PromptBuilder.from_directory(tiny, PromptConfig(frame=168, texts=texts))
    (tiny / TEXTS_FILE).write_text(prompt_texts(theirs.config)[TEXTS_FILE])
    loaded = PromptBuilder.from_directory(tiny, PromptConfig(frame=168))
    assert prompt_texts(loaded.config) == prompt_texts(theirs.config)
    written = conversations(loaded)
    assert written["one"][0]["content"][1]["text"] == "Find {object}."
    assert written["all"][0]["content"][1]["text"] == "Find all primary objects.."


def test_generation_is_greedy_without_penalty_and_without_banned_tokens(tmp_path):
    make_tiny_policy(tmp_path / "tiny", seed=0)
    policy = Policy(read_arch(tmp_path / "tiny"))
    published = {
        "do_sample": True,
        "temperature": 1e-6,
        "repetition_penalty": 1.05,
        "eos_token_id": [7, 8],
    }
    (tmp_path / "tiny/generation_config.json").write_text(json.dumps(published))
    end = int(Tokenizer(tmp_path / "tiny").encode(END_OF_TURN)[0])
    written = json.loads(generation_config(tmp_path / "tiny", policy))
    assert written == {
        "do_sample": False,
        "eos_token_id": [end, 7, 8],
        "suppress_tokens": list(policy.arch.never_sampled),
    }

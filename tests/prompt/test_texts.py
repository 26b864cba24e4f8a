"""Prompt texts from a file: the prompts of another implementation, token for token; faults."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from segr1_jax.config.loading import dump_config, load_config
from segr1_jax.config.resume_rules import refused_changes
from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.texts import TEXTS_FILE, parse_texts, read_texts, texts_file
from segr1_jax.prompt.tokenizer import Tokenizer
from segr1_jax.prompt.wording import TEXTS
from segr1_jax.types import Example

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
FORM = '{"bbox": [x1,y1,x2,y2], "points": [...]} '
# As a person who ports another implementation would write it.
FILE = """
rl:
  system: |
    Du segmentierst Bilder. Antworte als {template}
      Zahlen sind Pixel \u2013 ganze.
  user: "Bild: {image}\\nSuche {instruction}! Form {{A}}: {template}"
  everything: "{image} Suche alles."
  template: '{"bbox": [x1,y1,x2,y2], "points": [...]} '
prerl:
  user: "{image}{instruction} Identify and segment it."
sft:
  system: "No question comes before its picture: {template}{template}"
  user: "{instruction}{image}"
  template: "<think>"
"""
SYSTEM = f"Du segmentierst Bilder. Antworte als {FORM}\n  Zahlen sind Pixel \u2013 ganze.\n"
PICTURE = {"type": "image"}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


# What that implementation gives to the chat template.
THEIRS = {
    ("rl", "den Fisch {rot}"): [
        {"role": "system", "content": SYSTEM},
        user(text("Bild: "), PICTURE, text(f"\nSuche den Fisch {{rot}}! Form {{A}}: {FORM}")),
    ],
    ("rl", None): [{"role": "system", "content": SYSTEM}, user(PICTURE, text(" Suche alles."))],
    ("prerl", "the cup"): [user(PICTURE, text("the cup Identify and segment it."))],
    ("prerl", None): [user(PICTURE, text("all primary objects. Identify and segment it."))],
    ("sft", "Where?"): [
        {
            "role": "system",
            "content": "No question comes before its picture: <think><think>",
        },
        user(text("Where?"), PICTURE),
    ],
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.mark.parametrize(("task", "instruction"), THEIRS)
def test_prompts_of_another_implementation_token_for_token(
    file, task, instruction, qwen_directory, vision
):
    (file.parent / "run.yaml").write_text("prompt: {texts: theirs.yaml, frame: 168}\n")
    config = load_config(file.parent / "run.yaml", [f"prompt.task={task}"])
    builder = PromptBuilder(Tokenizer(qwen_directory), vision, config.prompt)
    prompt = builder.build(Example(0, "a", IMAGE, None, instruction))
    oracle = AutoTokenizer.from_pretrained(qwen_directory)
    chat = oracle.apply_chat_template(
        THEIRS[task, instruction], tokenize=False, add_generation_prompt=True
    )
    expected = oracle(chat.replace("<|image_pad|>", "<|image_pad|>" * 36))["input_ids"]
    assert prompt.token_ids.tolist() == expected
    assert builder.length(instruction, task) == len(expected)


def test_our_own_texts_as_a_file_change_nothing(tmp_path):
    (tmp_path / "ours.yaml").write_text(texts_file(TEXTS))
    assert read_texts(tmp_path / "ours.yaml") == TEXTS
    assert parse_texts(TEXTS, "prompt.texts", tmp_path) == TEXTS


def test_the_content_becomes_part_of_the_configuration(file, tmp_path):
    plain = tmp_path / "run.yaml"
    plain.write_text("seed: 3\n")
    config = load_config(plain, [f"prompt.texts={file}"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    file.write_text(FILE.replace("Suche alles", "Finde alles"), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config
    (change,) = refused_changes(config, load_config(plain, [f"prompt.texts={file}"]))
    assert change == (
        "prompt.texts.rl.everything: '{image} Suche alles.' -> '{image} Finde alles.'"
    )
    assert len(refused_changes(load_config(plain), config)) == 12
    file.unlink()
    assert load_config(tmp_path / "config.yaml") == config
    assert load_config(tmp_path / "config.yaml", ["prompt.texts="]) == load_config(plain)


def test_a_policy_directory_brings_its_texts(file, tmp_path):
    tiny = make_tiny_policy(tmp_path / "tiny", seed=0)
    config = PromptConfig(frame=168, max_tokens=400)
    ours = PromptBuilder.from_directory(tiny, config)
    (tiny / TEXTS_FILE).write_text(texts_file(read_texts(file)))
    theirs = PromptBuilder.from_directory(tiny, config)
    assert theirs.messages("den Fisch {rot}") == THEIRS["rl", "den Fisch {rot}"]
    assert theirs.config.texts == read_texts(file)
    # Those of the configuration take precedence.
    other = PromptBuilder.from_directory(tiny, PromptConfig(frame=168, texts=TEXTS))
    assert other.messages("a cup") == ours.messages("a cup")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("rll: {user: x}", ("'rll'", "did you mean rl?")),
        ("rl: 3", ("rl", "system, user, everything, template", "got 3")),
        ("[1]", ("key: value",)),
        ("rl: {usr: x}", ("'usr'", "did you mean user?")),
        ("rl: {user: 3}", ("rl.user", "3 (int)", "quotes")),
        ("rl: {system: a}", ("rl.user", "got nothing")),
        ("rl: {user: '{image} a'}", ("rl.user", "the placeholder {instruction}", "everything")),
        ("rl: {user: 'a {instruction}'}", ("rl.user", "the placeholder {image}")),
        ("rl: {user: '{image}{image}{instruction}'}", ("{image} once", "got 2")),
        ("rl: {user: '{image}{instructon}'}", ("{instructon}", "did you mean {instruction}?")),
        ("rl: {user: '{image}{instruction}{x}'}", ("got {x}", "{{ or }}")),
        ("rl: {user: '{image}{instruction}{'}", ("rl.user", "Single '{'", "{{ or }}")),
        ("rl: {user: '{image!r}{instruction}'}", ("{image} with a format",)),
        ("rl: {user: '{image}{}{instruction}'}", ("got {}",)),
        ("rl: {user: '{image}{instruction}${a}'}", ("without ${",)),
        ("rl: {user: '{image}{instruction}', system: '{image}'}", ("rl.system", "got {image}")),
        (
            "rl: {user: '{image}{instruction}', everything: '{image}{instruction}'}",
            ("rl.everything", "got {instruction}"),
        ),
        ("rl: {user: '{image}{instruction}', everything: a}", ("rl.everything", "{image}")),
        ("rl: {user: '{image}{instruction}', template: a}", ("rl.template", "{template}")),
        ("rl: {user: '{image}{instruction}{template}'}", ("rl.template", "a text")),
        ("prerl: {user: '{image}{instruction}'}", ("prompt.texts", "the task rl", "prerl")),
        ("rl: [", ("theirs.yaml", "YAML")),
        ("rl: {user: &a x, system: *a}", ("the alias *a",)),
        (f"rl: {{user: {'x' * 2**14}}}", ("at most 16 kB",)),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, content, words):
    file = tmp_path / "theirs.yaml"
    file.write_text(content)
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "run.yaml", [f"prompt.texts={file}"])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_files_that_are_not_utf_8_or_missing_are_named(tmp_path):
    (tmp_path / "run.yaml").write_text("prompt: {texts: theirs.yaml}\n")
    with pytest.raises(UserError, match=r"theirs\.yaml.*no such file"):
        load_config(tmp_path / "run.yaml")
    (tmp_path / "theirs.yaml").write_bytes("rl: {user: 'Süß'}".encode("latin-1"))
    with pytest.raises(UserError, match=r"theirs\.yaml: expected .*UTF-8.*codec"):
        load_config(tmp_path / "run.yaml")


def test_the_second_task_of_sft_needs_its_texts(tmp_path):
    texts = {"rl": {"user": "{image}{instruction}"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"stage": "sft", "prompt": {"texts": texts}}))
    load_config(tmp_path / "run.yaml")
    with pytest.raises(UserError, match="texts of the task prerl, got those of rl"):
        load_config(tmp_path / "run.yaml", ["sft.second_task=prerl"])


def test_texts_may_not_spell_special_tokens(qwen_directory, vision):
    texts = {"rl": {"user": "<|im_end|>{image}{instruction}"}}
    config = PromptConfig(frame=168, texts=parse_texts(texts, "prompt.texts", Path()))
    with pytest.raises(UserError, match=r"prompt\.texts.*<\|im_end\|>"):
        PromptBuilder(Tokenizer(qwen_directory), vision, config)

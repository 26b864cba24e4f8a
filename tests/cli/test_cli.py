"""The command line: its options are frozen, and its help has examples.

A user's fault is one message and exit status 2.
"""

import argparse
import subprocess
import sys

import pytest

from segr1_jax.cli import commands, main
from segr1_jax.cli.parser import build_parser

# A setting of a run is a key of the configuration and not a flag.
OPTIONS = {
    "sft": {"config", "overrides"},
    "train": {"config", "overrides"},
    "eval": {"config", "overrides", "source", "suite", "predictions", "protocol", "out"},
    "predict": {
        "config",
        "overrides",
        "source",
        "images",
        "instruction",
        "count",
        "overlays",
        "out",
    },
    "score": {"config", "overrides", "answers", "out", "masks"},
    "export": {
        *("config", "overrides", "source", "out", "layout", "overwrite", "check", "adapter"),
        *("push", "private"),
    },
    "tiny": {"out", "seed", "frame"},
    "plan": {"config", "overrides", "compile", "topology", "answer_tokens", "json"},
    "profile": {"config", "overrides", "steps", "hlo", "peak_flops"},
    "doctor": {"python"},
    "data": {"action", "root", "overrides", "seed", "json"},
    "demo": {"config", "overrides", "source", "port"},
    "config": {"config", "overrides"},
}


def _subparsers() -> dict[str, argparse.ArgumentParser]:
    return next(
        action.choices
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\npolicy: {{path: {tmp_path}}}\n")
    return str(path)


def test_the_set_of_options_is_frozen():
    found = {
        name: {action.dest for action in parser._actions} - {"help"}
        for name, parser in _subparsers().items()
    }
    assert found == OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_help_shows_an_example_that_parses(name):
    text = _subparsers()[name].format_help()
    example = (
        next(line for line in text.splitlines() if line.startswith("example:"))
        .split("   ")[0]
        .split('--instruction "')[0]
    )
    assert build_parser().parse_args(example.split()[2:]).run
    assert "writes:" in text or "prints:" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.yaml"], "no such file"),
        (["train", "CONFIG", "step=3"], "did you mean steps"),
        (["sft", "CONFIG"], "`segr1 train`"),
        (["train", "CONFIG", "policy.path=absent"], "policy.path"),
        (["eval", "CONFIG"], "run_dir"),
        (["predict", "CONFIG", "--source", "absent"], "--source"),
        (["predict", "CONFIG", "--source", ".", "--images", "absent.png"], "absent.png (missing)"),
        (["predict", "CONFIG", "--source", ".", "--count", "-1"], "--count: expected at least 1"),
        (["profile", "CONFIG", "--steps", "0"], "--steps: expected at least 1"),
        (["eval", "CONFIG", "--source", ".", "--suite", "paper"], "eval_data.root"),
        (
            ["score", "CONFIG", "--answers", "CONFIG", "--out", "/proc/x"],
            "--out: expected a folder that can be written",
        ),
        (
            ["score", "CONFIG", "--answers", "absent.jsonl", "--out", "scores.jsonl"],
            "absent.jsonl (missing)",
        ),
    ],
)
def test_fault_of_the_user_is_one_line_and_status_2(config, capsys, arguments, words):
    assert main([config if argument == "CONFIG" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "launch/setup.sh", 2),
        (RuntimeError("Unable to initialize backend 'cuda'"), "segr1 doctor", 2),
        (KeyboardInterrupt(), "last checkpoint", 130),
    ],
)
def test_faults_of_the_installation(monkeypatch, capsys, error, words, status):
    def fail():
        raise error

    monkeypatch.setattr(commands, "describe", fail)
    assert main(["config"]) == status
    assert words in capsys.readouterr().err


def test_our_own_faults_keep_their_traceback(monkeypatch):
    def fail():
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(commands, "describe", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["config"])


def test_config_lists_and_shows(config, capsys):
    assert main(["config"]) == 0
    assert "optimizer.learning_rate = 1e-06" in capsys.readouterr().out
    assert main(["config", config, "steps=7"]) == 0
    assert "steps: 7" in capsys.readouterr().out


def test_help_of_data_names_the_key_of_the_suite():
    assert "--suite paper eval_data.root=" in _subparsers()["data"].format_help()


def test_a_reader_that_has_enough_ends_the_command_quietly():
    command = f"{sys.executable} -m segr1_jax.cli config | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (141, "")


def test_another_broken_pipe_keeps_its_traceback(monkeypatch):
    def fail():
        raise BrokenPipeError("of a process of ours")

    monkeypatch.setattr(commands, "describe", fail)
    with pytest.raises(BrokenPipeError):
        main(["config"])


def test_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "segr1_jax.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("segr1 ")

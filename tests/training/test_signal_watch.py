"""The line that tells of a run without advantages.

When it comes, what it says, that it comes once.
"""

import pytest

from segr1_jax.training.signal_watch import WINDOW, SignalWatch


@pytest.fixture
def watched(capsys):
    """What is printed over steps of (share of dead groups, share of answers that parse)."""

    def watch(*steps: tuple[float, float]) -> str:
        watch = SignalWatch()
        for dead, parsed in steps:
            watch.look({"dead_groups": dead, "parse/ok": parsed})
        return capsys.readouterr().err

    return watch


def test_answers_that_do_not_parse_ask_for_sft_first(watched):
    line = watched(*[(1.0, 0.0)] * 20)
    assert line.count("\n") == 1
    assert "100% of the groups" in line
    assert "0% of the answers parsed" in line
    assert "segr1 sft" in line
    assert "policy.path" in line


def test_one_lucky_answer_does_not_hide_it(watched):
    assert "segr1 sft" in watched((1.0, 0.0), (0.94, 0.01), *[(1.0, 0.0)] * 3)


def test_equal_answers_that_parse_ask_for_variety(watched):
    line = watched(*[(1.0, 1.0)] * WINDOW)
    assert "rollout.temperature" in line
    assert "sft" not in line


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([(1.0, 0.0)] * (WINDOW - 1), id="too few steps"),
        pytest.param([(0.6, 0.2)] * 50, id="some groups are alive"),
        pytest.param([(1.0, 0.0), *[(0.8, 0.3)] * 4] * 5, id="one bad step in five"),
    ],
)
def test_a_run_that_learns_is_left_in_peace(watched, steps):
    assert watched(*steps) == ""

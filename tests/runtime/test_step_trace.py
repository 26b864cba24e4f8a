"""The trace of an ordinary run.

It is readable, with the requested steps and phases and no others.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import ProfileConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.metrics_log import PhaseTimer
from segr1_jax.runtime.step_trace import StepTrace


def events(folder) -> list[tuple[str, dict]]:
    (file,) = folder.rglob("*.xplane.pb")
    planes = ProfileData.from_file(str(file)).planes
    return [
        (event.name, dict(event.stats))
        for plane in planes
        for line in plane.lines
        for event in line.events
    ]


@pytest.mark.parametrize("ends", [5, 3])
def test_steps_and_phases_are_in_the_trace(tmp_path, ends):
    """Steps 2 to 4 are asked for; a run that ends within them leaves those it made."""
    timer = PhaseTimer()
    with StepTrace([2, 4], tmp_path, timer) as trace:
        for step in range(1, ends + 1):
            with trace(step), timer("update"):
                jnp.sin(jnp.ones(8)).block_until_ready()
    found = events(tmp_path)
    expected = [step for step in (2, 3, 4) if step <= ends]
    assert [stats["step_num"] for name, stats in found if name == "step"] == expected
    assert [name for name, _ in found].count("update") == len(expected)


def test_without_steps_nothing_is_written(tmp_path):
    with StepTrace([], tmp_path, PhaseTimer()) as trace, trace(1):
        pass
    assert not list(tmp_path.iterdir())


def test_a_step_that_fails_leaves_a_trace_and_the_profiler_free(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        StepTrace([1, 3], tmp_path / "a", PhaseTimer()) as trace,
        trace(1),
    ):
        raise ZeroDivisionError
    assert ("step", {"step_num": 1}) in [
        (name, {"step_num": stats.get("step_num")}) for name, stats in events(tmp_path / "a")
    ]
    with jax.profiler.trace(tmp_path / "b"):
        pass


@pytest.mark.parametrize("steps", [[3], [3, 2], [0, 2], [1.0, 2], [1, 2, 3]])
def test_steps_that_are_no_range(steps):
    with pytest.raises(UserError, match=r"profile\.steps"):
        ProfileConfig(steps)


def test_steps_come_from_the_command_line(tmp_path):
    (tmp_path / "run.yaml").write_text("profile: {steps: [1, 2]}\n")
    assert load_config(tmp_path / "run.yaml").profile.steps == [1, 2]
    assert load_config(tmp_path / "run.yaml", ["profile.steps=[10,12]"]).profile.steps == [10, 12]

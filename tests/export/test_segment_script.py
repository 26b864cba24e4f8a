"""What segment.py takes from an answer, against the parser of training."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from segr1_jax.answer.grammar import parse, sam_prompts
from segr1_jax.reward.sidecar.model_files import NANO_CONFIG, model_tree
from segr1_jax.types import Frame

SCRIPT = Path(__file__).parents[2] / "segr1_jax/export/assets/segment.py"
FRAME = 168
THINK = "<think> <points>[[1,1]]</points> </think> "
BOX, OTHER = "<bbox>[10,20,90,100]</bbox>, ", "<bbox>[80,90,168,168]</bbox>, "
POINTS = "<points>[[30,40],[85,95],[160,160],[5,5]]</points>, <labels>[1,0,1,1]</labels>"


@pytest.fixture(scope="module")
def segment():
    spec = importlib.util.spec_from_file_location("segment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its module up.
    sys.modules["segment"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["segment"]


@pytest.mark.parametrize(
    ("text", "task"),
    [(THINK + BOX + POINTS, "rl"), (THINK + BOX + OTHER + POINTS, "rl"), (POINTS, "prerl")],
)
def test_well_formed_answers_give_the_prompts_of_training(segment, text, task):
    theirs, _ = parse(text, Frame(FRAME, FRAME), task=task)
    answer = segment.read_answer(text, FRAME, boxed=task != "prerl")
    ours = segment.prompts_of(answer)
    for (box, inside_K), prompt in zip(ours, sam_prompts(theirs, theirs.frame), strict=True):
        assert (box is None) == (prompt.box is None)
        if box is not None:
            np.testing.assert_array_equal(box, prompt.box)
        np.testing.assert_array_equal(answer.points_K2[inside_K], prompt.points)
        np.testing.assert_array_equal(answer.labels_K[inside_K], prompt.labels)


@pytest.mark.parametrize(
    "text",
    [
        "I see a fish.",
        THINK,
        THINK + BOX,
        THINK + POINTS,
        THINK + BOX + "<points>[[30,40]]</points>",
        THINK + BOX + "<points>[[30,40]]</points>, <labels>[1,0]</labels>",
        THINK + BOX + "<points>[[30,40]]</points>, <labels>[2]</labels>",
        THINK + BOX + "<points>[[30,169]]</points>, <labels>[1]</labels>",
        THINK + "<bbox>[90,20,10,100]</bbox>, " + POINTS,
        THINK + "<bbox>[10,20,90]</bbox>, " + POINTS,
    ],
)
def test_other_answers_hold_no_mask(segment, text):
    assert parse(text, Frame(FRAME, FRAME))[0] is None
    assert segment.read_answer(text, FRAME, boxed=True) is None


def test_the_model_is_that_of_the_sidecar(segment, monkeypatch):
    for postprocessing in (False, True):
        built = []
        monkeypatch.setattr(segment.hydra.utils, "instantiate", built.append)
        segment.make_model(str(NANO_CONFIG), postprocessing)
        ours = segment.omegaconf.OmegaConf.to_container(built[0], resolve=True)
        assert ours == model_tree(NANO_CONFIG, postprocessing=postprocessing)


def test_a_configuration_that_names_another_program_is_refused(segment, tmp_path):
    (tmp_path / "bad.yaml").write_text("model: {_target_: subprocess.Popen, args: [touch, gone]}\n")
    with pytest.raises(SystemExit, match=r"names subprocess.Popen, which is not a class of sam2"):
        segment.make_model(str(tmp_path / "bad.yaml"), False)

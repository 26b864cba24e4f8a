"""`segr1 score` end to end with the nano SAM2, against SAM2 and the formulas called here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segr1_jax.cli import main
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.data.given_answers import GivenAnswer, read_answers
from segr1_jax.data.synthetic import generate
from segr1_jax.eval import score
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.reward.scores import iou, s_measure
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2
from segr1_jax.reward.transport.prompts_block import WirePrompt
from segr1_jax.types import Score, ScoreStatus

ROOT = Path(__file__).parents[2]
# The second point is outside of the box.
POINTS = "<points>[[66,66],[5,110]]</points>, <labels>[1,0]</labels>"
BOXED = f"<think>a fish</think> <bbox>[36,36,94,95]</bbox>, {POINTS}"
FRAME = 112  # the images are of 168: coordinates grow by 1.5


@pytest.fixture
def folder(tmp_path):
    for name, index in (("a", 1), ("b", 2)):
        example = generate(DataConfig(size=168), index)
        Image.fromarray(example.image).save(tmp_path / f"{name}.png")
        Image.fromarray(example.mask).save(tmp_path / f"{name}_mask.png")
    (tmp_path / "bad.png").write_bytes(b"broken")
    Image.new("1", (30, 9), 1).save(tmp_path / "small_mask.png")
    (tmp_path / "run.yaml").write_text(f"prompt: {{frame: {FRAME}}}\n")
    return tmp_path


@pytest.fixture
def clients(monkeypatch):
    """The reward clients that a command made."""
    made = []

    class Kept(score.RewardClient):
        def __init__(self, config):
            super().__init__(config)
            made.append(self)

    monkeypatch.setattr(score, "RewardClient", Kept)
    return made


def line(image, text, mask=None, **more):
    return {"image": f"{image}.png", "mask": f"{mask or image}_mask.png", "answer": text} | more


def command(folder, *lines, extra=()):
    (folder / "answers.jsonl").write_text("".join(json.dumps(item) + "\n" for item in lines))
    return [
        "score",
        str(folder / "run.yaml"),
        *extra,
        "--answers",
        str(folder / "answers.jsonl"),
        "--out",
        str(folder / "out.jsonl"),
    ]


def rows(folder):
    return [json.loads(text) for text in (folder / "out.jsonl").read_text().splitlines()]


def truth_of(folder, name):
    return np.asarray(Image.open(folder / f"{name}_mask.png").convert("L")) > 0


def mask_of(folder, name, box, point, label):
    """What SAM2 makes of one prompt in native pixels, and the truth."""
    sam2 = Sam2(build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False))
    prompt = WirePrompt(
        None if box is None else np.float32(box), np.float32(point).reshape(-1, 2), np.int32(label)
    )
    found = sam2.decode(sam2.encode(np.array(Image.open(folder / f"{name}.png"))), [prompt])
    return found, truth_of(folder, name)


def test_rewards_equal_the_formula_and_a_group_is_encoded_once(folder, clients, capsys):
    lines = [
        line("a", BOXED, id="first"),
        line("a", "no answer"),
        line("a", BOXED, mask="b"),
        *[line("a", BOXED)] * 20,
        line("b", BOXED),
    ]
    assert main([*command(folder, *lines), "--masks", str(folder / "masks")]) == 0
    found = rows(folder)
    mask, truth = mask_of(folder, "a", (54, 54, 141, 142.5), (99, 99), (1,))
    assert iou(mask, truth) > 0.5
    terms = {"format": 1.0, "iou": iou(mask, truth), "s_measure": s_measure(mask, truth)}
    total = 1 + 0.7 * terms["iou"] + 0.3 * terms["s_measure"]
    same = {
        "parse": "ok",
        "score": "ok",
        "total": pytest.approx(total),
        **terms,
        "boxes": 1,
        "stray_points": 1,
    }
    assert found[0] == {"id": "first", **same, "mask": "0000001.png"}
    assert found[1] == {
        "id": "2",
        "parse": "missing_think",
        "score": None,
        "boxes": None,
        "stray_points": None,
    } | dict.fromkeys(("total", "format", "iou", "s_measure"), 0.0)
    assert [row["id"] for row in found] == ["first", *map(str, range(2, 25))]
    assert all(row["total"] == found[0]["total"] for row in found[3:23])
    assert found[2]["iou"] == iou(mask, truth_of(folder, "b"))
    assert clients[0].stats().totals["encodes"] == 2
    assert clients[0].stats().totals["scores"] == 23
    with Image.open(folder / "masks/0000001.png") as written:
        np.testing.assert_array_equal(np.asarray(written), mask.astype(np.uint8) * 255)
    assert not (folder / "masks/0000002.png").exists()
    printed = capsys.readouterr().out
    assert f"| {np.mean([row['total'] for row in found]):.3f} |" in printed
    assert "| missing_think | 1 |" in printed
    assert "| ok | 23 |" in printed


def test_points_alone_under_the_prerl_task(folder):
    assert (
        main(command(folder, line("a", POINTS), line("a", BOXED), extra=["prompt.task=prerl"])) == 0
    )
    found, rejected = rows(folder)
    mask, truth = mask_of(folder, "a", None, ((99, 99), (7.5, 165)), (1, 0))
    assert (found["iou"], found["boxes"], found["stray_points"]) == (iou(mask, truth), 0, 0)
    assert (rejected["parse"], rejected["total"]) == ("missing_points", 0.0)


def test_bad_pictures_are_skipped_with_their_reason(folder, capsys):
    lines = [
        line("a", BOXED),
        line("bad", BOXED, mask="a"),
        line("absent", BOXED),
        line("a", BOXED, mask="small"),
        line("b", BOXED),
    ]
    assert main(command(folder, *lines)) == 0
    found = rows(folder)
    assert [row["score"] for row in found] == ["ok", "skipped", "skipped", "skipped", "ok"]
    for row, words in zip(
        found[1:4],
        ("bad.png: expected a readable image", "absent.png", "168x168, got 30x9"),
        strict=True,
    ):
        assert words in row["reason"]
        assert row["total"] is row["iou"] is row["parse"] is None
    printed = capsys.readouterr().out
    assert "| skipped | 3 |" in printed
    assert "answers.jsonl:2: " in printed
    assert f"{np.mean([found[0]['total'], found[4]['total']]):.3f}" in printed


class LosesEverySecond(score.RewardClient):
    """A reward client whose sidecar cannot answer each second request.

    It counts what is sent and not yet collected.
    """

    def __init__(self):
        self.waiting, self.most_waiting, self.sizes = 0, 0, []

    def submit(self, requests):
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        self.sizes.append(len(requests))
        return len(requests)

    def collect(self, ticket):
        self.waiting -= 1
        return [
            Score([ScoreStatus.OK, ScoreStatus.QUARANTINED][index % 2], 0.5, 0.5)
            for index in range(ticket)
        ]


def test_few_answers_are_held_and_what_the_sidecar_loses_has_no_reward(folder):
    client, taken = LosesEverySecond(), []
    command(
        folder, *[line("a", BOXED)] * 2 * score.TOGETHER, *[line("b", BOXED), line("a", BOXED)] * 9
    )
    given = (taken.append(answer) or answer for answer in read_answers(folder / "answers.jsonl"))
    config = RunConfig(prompt=PromptConfig(frame=FRAME))
    found = []
    for answer, row in score.AnswerScorer(config, client, None).rows(given):
        found.append((answer.line, row["score"], row["total"]))
        assert len(taken) - len(found) <= (score.AHEAD + 1) * score.TOGETHER
    assert client.most_waiting == score.AHEAD + 1
    assert client.sizes == [score.TOGETHER] * 2 + [1] * 18
    assert found[:3] == [(1, "ok", 1.5), (2, "quarantined", None), (3, "ok", 1.5)]
    assert [line for line, *_ in found] == list(range(1, 2 * score.TOGETHER + 19))


def test_the_summary_of_a_file_where_nothing_could_be_scored():
    summary = score.Summary(Path("answers.jsonl"), score.TERMS)
    nothing = dict.fromkeys(score.TERMS) | {
        "parse": None,
        "score": "skipped",
        "reason": "no such file",
    }
    for number in range(1, 9):
        summary.add(GivenAnswer(number, str(number), Path(), Path(), ""), nothing)
    text = summary.markdown()
    assert "| answers.jsonl | - | - | - | - | 0 |" in text
    assert "- skipped answers.jsonl:5: no such file\n- and 3 more" in text


def test_legacy_rewards(folder, clients):
    assert (
        main(
            command(
                folder,
                line("a", BOXED),
                line("a", BOXED),
                extra=["prompt.frame=756", "reward.legacy=true"],
            )
        )
        == 0
    )
    first, second = rows(folder)
    assert (
        first["total"]
        == second["total"]
        == pytest.approx(1 + 0.7 * first["iou"] + 0.3 * first["s_measure"])
    )
    assert clients[0].stats().totals["encodes"] == 1


@pytest.mark.parametrize(
    ("lines", "extra", "words"),
    [
        ([line("a", BOXED), {"image": "a.png"}], (), "answers.jsonl:2: "),
        ([], (), "at least one answer"),
        (
            [line("a", BOXED)],
            ("reward.sam2_config=a.yaml", "reward.sam2_checkpoint=gone.pt"),
            "reward.sam2_checkpoint",
        ),
        ([line("a", BOXED)], ("reward.legacy=true",), "prompt.frame"),
    ],
)
def test_what_is_wrong_from_the_start_ends_before_the_sidecar(
    folder, clients, capsys, lines, extra, words
):
    (folder / "out.jsonl").write_text("old")
    assert main(command(folder, *lines, extra=extra)) == 2
    assert words in capsys.readouterr().err
    assert (folder / "out.jsonl").read_text() == "old"
    assert not clients


@pytest.mark.parametrize("out", ["answers.jsonl", "masks", "run.yaml/out.jsonl"])
def test_places_that_cannot_be_written(folder, capsys, out):
    (folder / "masks").mkdir()
    assert main([*command(folder, line("a", BOXED)), "--out", str(folder / out)]) == 2
    assert "--out" in capsys.readouterr().err


def test_scoring_needs_no_jax(folder):
    code = (
        "import sys; from segr1_jax.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('jax', 'flax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command(folder, line("a", BOXED))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "score 1/1" in done.stderr

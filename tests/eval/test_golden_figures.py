"""`segr1 eval --predictions` on published maps agrees with MATLAB's figures."""

import csv
import json

import pytest
from tiny_run import CONFIG
from tolerances import TOL_GOLDEN

from segr1_jax.cli import main


def test_the_command_agrees_with_matlab(shared, tmp_path):
    golden = shared / "data/metrics_golden"
    with (golden / "per_image_matlab.csv").open() as file:
        expected = {line["id"]: line for line in csv.DictReader(file)}
    # The maps stand in for the images, which figures do not read.
    words = ["eval_data.kind=folder", f"eval_data.images={golden / 'pred_DSS'}"]
    words += [f"eval_data.masks={golden / 'gt'}", f"run_dir={tmp_path / 'run'}"]
    given = tmp_path / "given"
    given.mkdir()
    for path in (golden / "pred_DSS").iterdir():
        (given / path.name).write_bytes(path.read_bytes())
    options = ["--predictions", str(given), "--out", str(tmp_path / "out")]
    assert main(["eval", str(CONFIG), *options, *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    assert {line["name"] for line in lines} == set(expected)
    for line in lines:
        truth = expected[line["name"]]
        for ours, theirs in (("s_measure", "S_measure"), ("mae", "MAE")):
            assert line[ours] == pytest.approx(float(truth[theirs]), abs=TOL_GOLDEN)

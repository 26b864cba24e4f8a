"""Parsers of the commands that use a policy or its answers: eval, predict, demo, export, score."""

import argparse
from pathlib import Path

from segr1_jax.cli import commands
from segr1_jax.cli.command_parser import AddParser, add_command, add_config, add_source


def add_commands(add: AddParser) -> None:
    """Add eval, predict, demo, export and score."""
    _add_eval(add)
    _add_predict(add)
    _add_demo(add)
    _add_export(add)
    _add_score(add)


def _add_eval(add: AddParser) -> None:
    evaluate = add_command(
        add,
        "eval",
        commands.evaluate,
        "metrics of the paper on held-out data or on all its sets, or of given masks",
        """\
        example:  segr1 eval quickstart_grpo eval_data.count=1000
                  segr1 eval CONFIG eval_data.kind=published eval_data.root=ROOT eval_data.set=ecssd
                  segr1 eval CONFIG --suite paper eval_data.root=ROOT
                  segr1 eval CONFIG --predictions masks/ eval_data...
        suite:    every table of the paper, with the published numbers beside ours
        predictions:  a folder of PNGs, or JSON lines of answers
        writes:   under --out: predictions.jsonl, masks/, scores.jsonl, report.html;
                  the suite: tables.md, .json, .html
        resume:   the same command continues where it was killed
        next:     segr1 predict shows single answers""",
    )
    add_config(evaluate)
    add_source(evaluate)
    evaluate.add_argument(
        "--suite", choices=("paper",), help="all sets of the paper under eval_data.root"
    )
    evaluate.add_argument(
        "--predictions",
        type=Path,
        metavar="PATH",
        help="score these masks or answers instead of those of a policy",
    )
    evaluate.add_argument(
        "--protocol",
        choices=("standard", "reference"),
        default="standard",
        help="samples that count: all (default), or as the reference code selects them",
    )
    evaluate.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: in eval/ of run_dir)"
    )


def _add_predict(add: AddParser) -> None:
    predict = add_command(
        add,
        "predict",
        commands.predict,
        "masks for images",
        """\
        example:  segr1 predict quickstart_grpo --images photos/ \\
                    --instruction "the left cat" prompt.max_tokens=128
        writes:   under --out: masks/ with a PNG and overlays/ with a JPEG per image,
                  predictions.jsonl, report.html
        resume:   the same command continues where it was interrupted
        without --images: the first held-out images of eval_data
        status:   1 if a file could not be read (it is listed with the reason)""",
    )
    add_config(predict)
    add_source(predict)
    predict.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="image files, folders, or patterns such as 'a/**/*.jpg'",
    )
    predict.add_argument(
        "--instruction",
        metavar="TEXT",
        help="sentence that selects the object (default: all primary objects)",
    )
    predict.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="number of images, the first ones (default: all of --images, or 4 held-out ones)",
    )
    predict.add_argument(
        "--overlays",
        choices=("none", "small", "full"),
        default="small",
        help="pictures of the masks on their images: none, of at most 1024 pixels (default), or "
        "full size",
    )
    predict.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder to write (default: samples/predict in run_dir)",
    )


def _add_demo(add: AddParser) -> None:
    demo = add_command(
        add,
        "demo",
        commands.demo,
        "a web page on this machine to try a policy",
        """\
        example:  segr1 demo quickstart_grpo --port 7860
        prints:   the address of the page, which only this machine can open
                  (ssh -L 7860:localhost:7860 forwards it to another)
        needs:    pip install 'segr1-jax[demo]'""",
    )
    add_config(demo)
    add_source(demo)
    demo.add_argument("--port", type=int, default=7860, metavar="N", help="TCP port (default 7860)")


def _add_export(add: AddParser) -> None:
    export = add_command(
        add,
        "export",
        commands.export,
        "a Hugging Face directory that transformers and vLLM load",
        """\
        example:  segr1 export quickstart_grpo --out my-model
                  segr1 export runs/mine --push ORG/NAME --private
        writes:   safetensors, config.json, tokenizer, processor, model card, segment.py
        pushes:   the same folder, to a repository on the Hugging Face Hub
        next:     segr1 eval CONFIG --source my-model""",
    )
    add_config(export)
    add_source(export)
    export.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder to write (default: export, or adapter, in run_dir)",
    )
    export.add_argument(
        "--layout",
        choices=("published", "nested"),
        help="names of the tensors (default: as in the base checkpoint)",
    )
    export.add_argument(
        "--adapter",
        action="store_true",
        help="write only the adapters of a LoRA run, in the format of peft",
    )
    export.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing model once the new one is complete",
    )
    export.add_argument(
        "--push",
        metavar="ORG/NAME",
        help="upload the folder to this repository on the Hugging Face Hub, created if missing",
    )
    export.add_argument(
        "--private", action="store_true", help="create the repository of --push as a private one"
    )
    export.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare logits with transformers (default: if there is enough memory)",
    )


def _add_score(add: AddParser) -> None:
    score = add_command(
        add,
        "score",
        commands.score,
        "the reward of given answers, without a policy",
        """\
        example:  segr1 score quickstart_grpo --answers in.jsonl --out scores.jsonl
        reads:    one JSON object per line: image, mask (paths relative to the file), answer,
                  optionally id. Of CONFIG only reward.*, prompt.frame (coordinates are pixels of
                  this square) and prompt.task (the grammar) are used
        writes:   one JSON object per line, in order: id, parse, score, total, format, iou,
                  s_measure, boxes, stray_points
        faults:   an answer that does not parse gets 0; a line with a bad picture is skipped and
                  has the reason; a malformed line ends the command before anything is scored""",
    )
    add_config(score)
    score.add_argument(
        "--answers", type=Path, required=True, metavar="FILE", help="JSON lines to score"
    )
    score.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write the scores to, as JSON lines",
    )
    score.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="write the mask of each answer too, as a PNG named by line number",
    )

"""The command line: subcommands, their few options, and help that shows an example, what is written, and where to go next.

Every knob of a run is a key of the configuration, so no subcommand of the chain has a flag for one.
"""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path

from segr1_jax import __version__
from segr1_jax.cli import commands

OVERVIEW = """\
Seg-R1 in JAX: teach Qwen2.5-VL to segment by reinforcement learning.

The chain, each step reading what the one before wrote:
  segr1 tiny runs/tiny                                a small policy to try everything with
  segr1 sft configs/quickstart_sft.yaml               supervised cold start from masks
  segr1 train configs/quickstart_grpo.yaml            GRPO with mask rewards from SAM2
  segr1 eval configs/quickstart_grpo.yaml             the table of figures
  segr1 predict configs/quickstart_grpo.yaml          masks, overlays, JSON
  segr1 export configs/quickstart_grpo.yaml           a directory for transformers and vLLM
`segr1 plan` tells before step 0 whether a run fits and how long a step takes, `segr1 profile` where its time goes; `segr1 score`
gives the reward of answers that you have; `segr1 config` lists every key a configuration may set;
`segr1 doctor` checks the machine."""


def build_parser() -> argparse.ArgumentParser:
    """The parser; a parsed result has `run`, the function of commands.py to call with it."""
    parser = argparse.ArgumentParser(
        "segr1",
        description=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"segr1 {__version__}")
    add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    _add_runs(add)
    _add_uses(add)
    _add_score(add)
    _add_plan(add)
    _add_profile(add)
    _add_data(add)
    _add_helpers(add)
    return parser


def _add_runs(add: Callable[..., argparse.ArgumentParser]) -> None:
    sft = _command(
        add,
        "sft",
        commands.sft,
        "supervised cold start on answers made from masks",
        """\
        example:  segr1 sft configs/quickstart_sft.yaml data.level=salient
        writes:   the run directory (metrics.jsonl, tb/, checkpoints/, eval/, report.md)
        again:    the same command goes on from the last checkpoint
        next:     segr1 train, with policy.path set to this run's directory""",
    )
    train = _command(
        add,
        "train",
        commands.train,
        "GRPO: sample answers, score their masks with SAM2, update",
        """\
        example:  segr1 train configs/quickstart_grpo.yaml rollout.group=4 reward.weights.s_measure=0.5
        writes:   the run directory (metrics.jsonl, tb/, checkpoints/, eval/, samples/, report.md)
        again:    the same command goes on from the last checkpoint
        next:     segr1 eval, segr1 predict, segr1 export with the same configuration""",
    )
    for command in (sft, train):
        _add_config(command)


def _add_uses(add: Callable[..., argparse.ArgumentParser]) -> None:
    evaluate = _command(
        add,
        "eval",
        commands.evaluate,
        "the paper's figures on held-out data or on all its sets; somebody else's masks",
        """\
        example:  segr1 eval configs/quickstart_grpo.yaml eval_data.count=1000
                  segr1 eval CONFIG eval_data.kind=published eval_data.root=ROOT eval_data.set=ecssd
                  segr1 eval CONFIG --suite paper eval_data.root=ROOT     every table, published numbers beside ours
                  segr1 eval CONFIG --predictions masks/ eval_data...     a folder of PNGs, or JSON lines of answers
        writes:   under --out: predictions.jsonl, masks/, scores.jsonl, report.html; the suite: tables.md, .json, .html
        again:    the same command goes on where it was killed
        next:     segr1 predict shows single answers""",
    )
    predict = _command(
        add,
        "predict",
        commands.predict,
        "masks for images",
        """\
        example:  segr1 predict configs/quickstart_grpo.yaml --images photos/ --instruction "the left cat" prompt.max_tokens=128
        writes:   under --out masks/ with a PNG and overlays/ with a JPEG per image, predictions.jsonl, report.html;
                  interrupted, the same command goes on
        without --images: the first held-out images of eval_data
        status:   1 where a file could not be read (it is listed with its reason)""",
    )
    demo = _command(
        add,
        "demo",
        commands.demo,
        "a page on this machine to try a policy with",
        """\
        example:  segr1 demo configs/quickstart_grpo.yaml --port 7860
        prints:   the address to open; only this machine can (ssh -L 7860:localhost:7860 brings it to another)
        needs:    pip install 'segr1-jax[demo]'""",
    )
    export = _command(
        add,
        "export",
        commands.export,
        "a Hugging Face directory that transformers and vLLM load",
        """\
        example:  segr1 export configs/quickstart_grpo.yaml --out my-model
        writes:   safetensors, config.json, tokenizer, processor, model card
        next:     segr1 eval CONFIG --source my-model""",
    )
    for command in (evaluate, predict, demo, export):
        _add_config(command)
        command.add_argument(
            "--source",
            type=Path,
            metavar="DIR",
            help="run or Hugging Face directory to use (default: run_dir of CONFIG)",
        )
    evaluate.add_argument(
        "--suite", choices=("paper",), help="all sets of the paper that are below eval_data.root"
    )
    evaluate.add_argument(
        "--predictions",
        type=Path,
        metavar="PATH",
        help="score these masks or answers instead of a policy's",
    )
    evaluate.add_argument(
        "--protocol",
        choices=("standard", "reference"),
        default="standard",
        help="which samples count: all (default), or as the reference code draws them",
    )
    evaluate.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: below eval in run_dir)"
    )
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
        help="the sentence that picks the object (default: all primary objects)",
    )
    predict.add_argument(
        "--count",
        type=int,
        default=4,
        metavar="N",
        help="without --images: how many held-out images (default 4)",
    )
    predict.add_argument(
        "--overlays",
        choices=("none", "small", "full"),
        default="small",
        help="pictures of the masks on their images: none, of 1024 pixels (default), or full size",
    )
    predict.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: samples/predict in run_dir)",
    )
    demo.add_argument("--port", type=int, default=7860, metavar="N", help="TCP port (default 7860)")
    export.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: export, or adapter, in run_dir)",
    )
    export.add_argument(
        "--layout",
        choices=("published", "nested"),
        help="names of the tensors (default: as in the base checkpoint)",
    )
    export.add_argument(
        "--adapter", action="store_true", help="write a LoRA run's adapters alone, as peft's files"
    )
    export.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a model that is there, once the new one is whole",
    )
    export.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare logits with transformers (default: where the memory is there)",
    )


def _add_score(add: Callable[..., argparse.ArgumentParser]) -> None:
    score = _command(
        add,
        "score",
        commands.score,
        "the reward of answers that you have, without a policy",
        """\
        example:  segr1 score configs/quickstart_grpo.yaml --answers answers.jsonl --out scores.jsonl
        reads:    one JSON object per line: image, mask (paths relative to the file), answer, optionally id. Of CONFIG only
                  reward.*, prompt.frame (coordinates are pixels of this square) and prompt.task (which grammar) count
        writes:   one JSON object per line, in order: id, parse, score, total, format, iou, s_measure, boxes, stray_points
        faults:   an answer that does not parse earns 0; a line with a bad picture is skipped and says why; a malformed line
                  ends the command before anything is scored""",
    )
    _add_config(score)
    score.add_argument(
        "--answers", type=Path, required=True, metavar="FILE", help="JSON lines to score"
    )
    score.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to write their scores, as JSON lines",
    )
    score.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="write the mask of each answer too, a PNG named by line number",
    )


def _add_plan(add: Callable[..., argparse.ArgumentParser]) -> None:
    plan = _command(
        add,
        "plan",
        commands.plan,
        "memory, FLOPs and time of a run, without weights, data or its devices",
        """\
        example:  segr1 plan configs/paper/rl_cod_3b.yaml
                  segr1 plan configs/paper/rl_cod_3b.yaml hardware.kind=h200 hardware.hosts=2 batch=32
                  segr1 plan configs/ours/rl_cod_7b_v5e.yaml --topology v5e:8x8
        prints:   every buffer per device, what is there at the same time, whether it fits, is tight or does not fit, with the
                  knob that would make it fit, what checkpoints need of disk and hosts,
                  and the phases of a step; exit status 1 where it does not fit
        compile:  estimates become XLA's own figures, for a TPU topology (needs libtpu) or for fake CPU devices, in minutes
        hardware: the configuration's (keys hardware.kind, .hosts, .chips); the architecture is that in policy.path, else policy.arch""",
    )
    _add_config(plan)
    plan.add_argument(
        "--compile",
        action="store_true",
        help="compile the programs with XLA's CPU compiler, for as many fake devices",
    )
    plan.add_argument(
        "--topology",
        default="",
        metavar="NAME",
        help="compile them for these TPUs, such as v5e:8x8",
    )
    plan.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")


def _add_profile(add: Callable[..., argparse.ArgumentParser]) -> None:
    profile = _command(
        add,
        "profile",
        commands.profile,
        "where the time of a step goes: phases, functions, MFU, an XProf trace",
        """\
        example:  segr1 profile configs/quickstart_grpo.yaml --steps 3
        prints:   share of each phase of a step, prefill and decode; per jitted function compilations, FLOPs, memory, seconds, MFU
        writes:   profile.md, profile.json and profile/ (the trace) in a run directory of its own, RUN_DIR_profile_1 (2, 3, ...)
        traces:   of an ordinary run come with the key profile.steps=[10,12]""",
    )
    _add_config(profile)
    profile.add_argument(
        "--steps",
        type=int,
        default=3,
        metavar="N",
        help="steps to trace, and to time after that (default 3)",
    )
    profile.add_argument(
        "--hlo", type=Path, metavar="DIR", help="write the compiled text of each function there"
    )
    profile.add_argument(
        "--peak-flops",
        type=float,
        metavar="X",
        help="peak FLOP/s of one device, for MFU (default: by device kind)",
    )


def _add_data(add: Callable[..., argparse.ArgumentParser]) -> None:
    data = _command(
        add,
        "data",
        commands.data,
        "what of the published data sets is there; toy copies of all of them",
        """\
        example:  segr1 data check /data/segmentation      every set and split, counts beside the published ones, every problem
                  segr1 data toy runs/toy                  all layouts at toy size, to try an evaluation with
        writes:   nothing (check); the folder (toy)
        next:     segr1 eval CONFIG --suite paper eval_data.root=/data/segmentation""",
    )
    data.add_argument("action", choices=("check", "toy"))
    data.add_argument(
        "root", type=Path, metavar="ROOT", help="the folder that holds, or will hold, all sets"
    )
    data.add_argument("--seed", type=int, default=0, help="toy: seed of the pictures (default 0)")
    data.add_argument(
        "--json", type=Path, metavar="FILE", help="check: write the report as JSON too"
    )


def _add_helpers(add: Callable[..., argparse.ArgumentParser]) -> None:
    tiny = _command(
        add,
        "tiny",
        commands.tiny,
        "make a small random Qwen2.5-VL directory",
        """\
        example:  segr1 tiny runs/tiny
        writes:   config.json, safetensors, tokenizer, processor (a few MB)
        next:     segr1 sft configs/quickstart_sft.yaml policy.path=runs/tiny""",
    )
    tiny.add_argument("out", type=Path, metavar="DIR", help="directory to make")
    tiny.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    tiny.add_argument(
        "--frame",
        type=int,
        default=168,
        help="side of the square model frame in pixels, a multiple of 28 (default 168)",
    )
    doctor = _command(
        add,
        "doctor",
        commands.doctor,
        "check versions, devices, clashes, memory and disk",
        """\
        example:  segr1 doctor --python .venv-sidecar/bin/python
        prints:   one line per check (ok, warn, fail) with what to do; exit status 1 where one failed""",
    )
    doctor.add_argument(
        "--python",
        default="",
        metavar="PATH",
        help="interpreter of the SAM2 sidecar (default: this one)",
    )
    config = _command(
        add,
        "config",
        commands.show_config,
        "list every key with its default, or show one configuration in full",
        """\
        example:  segr1 config                                      every key, its default, what it does
                  segr1 config configs/quickstart_grpo.yaml steps=4   the whole configuration, checked
        writes:   nothing""",
    )
    _add_config(config, nargs="?")


def _command(
    add: Callable[..., argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    text: str,
) -> argparse.ArgumentParser:
    texts = {"help": summary, "description": summary, "epilog": textwrap.dedent(text)}
    command = add(
        name, **texts, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    command.set_defaults(run=run)
    return command


def _add_config(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
    command.add_argument(
        "config", nargs=nargs, type=Path, metavar="CONFIG", help="YAML file, or a run directory"
    )
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys to change, such as steps=100 optimizer.learning_rate=1e-5",
    )

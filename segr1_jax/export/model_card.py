"""The model card of an export, and the settings of the script beside it, segment.py."""

import json
from importlib.resources import files
from pathlib import Path

from segr1_jax.common.hub_ids import hub_id
from segr1_jax.config.portable import portable
from segr1_jax.config.resume_rules import config_hash
from segr1_jax.config.schema import RunConfig
from segr1_jax.export.card_metadata import base_name, card_metadata
from segr1_jax.policy.params import Policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.texts import TEXTS_FILE, texts_file
from segr1_jax.prompt.tokenizer import Tokenizer
from segr1_jax.runtime.initial_weights import Start
from segr1_jax.runtime.run_directory import RunDir

OBJECT = "{object}"
# Qwen2.5-VL's own file sets a repetition_penalty of 1.05, which changes repeated coordinates.
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")
# Measured with launch/processor_distance.py, the worst of its four sets (launch/RESULTS.md).
DISTANCE = """the default one of transformers resizes and rounds
differently. Measured with segr1_jax's quickstart policy it differs by up to 4 gray levels of 255
(mean at most 0.02), which moves the logits of an answer by up to 0.014 (mean at most 0.0002),
changed 1 of 680 greedy answers, and did not change the mean IoU of the masks (within 0.0001);
other policies may be more sensitive."""
SCRIPT, SETTINGS = "segment.py", "segment.json"


def model_card(config: RunConfig, source: Path, start: Start) -> str:
    """Return the README of an exported directory, without host names and absolute paths."""
    report = RunDir(source).report
    table = (
        report.read_text().partition("\n\n")[2]
        if report.is_file()
        else "No closing table: the run has not ended.\n"
    )
    frame = config.prompt.frame
    return f"""{card_metadata(config, source, start)}# Seg-R1 policy

Written by segr1_jax ({_trained(config, start)}),
from {base_name(start)}, on {_data_name(config)} data.
It answers with boxes and labeled points in pixels of the {frame} x {frame} frame that its image is
stretched to; SAM2 turns these into a mask.
Its reward was given by {_sam2_name(config)}.

## Use

In this directory:

```bash
python segment.py IMAGE MASK.png{_sam2_option(config)} --object "the red fish"
```

```python
from PIL import Image
from segment import Segmenter

segmenter = Segmenter({_sam2_argument(config)})
mask = segmenter.mask(Image.open("photo.jpg"), "the red fish")  # None: the answer holds no mask
```

If the answer is well formed, it gives the mask of `segr1 predict`, up to pixels at an edge if torch
runs with a different number of threads than `reward.threads`. Otherwise `segr1 predict` gives an
empty mask. `segment.py` shows what matters. It stretches images to the frame itself, with Pillow's
bicubic filter: a processor that gets another size keeps about the aspect ratio, and even a square
image may end in a neighboring frame. It takes the Pillow processor (`backend="pil"`): {DISTANCE}

## Held-out figures

{table}"""


def adapter_card(config: RunConfig, start: Start) -> str:
    """Return the README of an exported adapter."""
    base = base_name(start)
    return f"""---
library_name: peft
base_model: {base.partition("@")[0]}
---
# Seg-R1 adapter

Written by segr1_jax ({_trained(config, start)}), for {base}, on {_data_name(config)} data.
Rank {start.lora.rank}, alpha {start.lora.alpha:g}.
`peft.PeftModel.from_pretrained(model, DIRECTORY)` puts it on that model. Prompts, frame and SAM2
are those of a whole export (`segr1 export` without `--adapter`), which has a script that makes
masks.
"""


def _trained(config: RunConfig, start: Start) -> str:
    if not start.step:
        return "weights unchanged"
    updates = f"{start.step} updates of {config.batch} prompts"
    return f"{config.stage}, {updates}, config hash {config_hash(config)}"


def _data_name(config: RunConfig) -> str:
    """Return the kind of the training data, or its repository on the Hub."""
    name = portable(config).data.path if config.data.kind == "hub" else ""
    return name if hub_id(name) else config.data.kind


def _sam2_name(config: RunConfig) -> str:
    reward = portable(config).reward
    local = reward.sam2_config if reward.postprocessing else Path(reward.sam2_config).name
    return reward.sam2 or local or "the nano SAM2 of segr1_jax (reward/assets)"


def _sam2_option(config: RunConfig) -> str:
    return "" if portable(config).reward.sam2 else " --sam2 CONFIG WEIGHTS"


def _sam2_argument(config: RunConfig) -> str:
    return "" if portable(config).reward.sam2 else '["CONFIG", "WEIGHTS"]'


def script() -> str:
    """Return the script that turns an image into a mask with an export, transformers and sam2."""
    return files("segr1_jax.export").joinpath(f"assets/{SCRIPT}").read_text()


def prompt_texts(prompt: PromptConfig) -> dict[str, str]:
    """Return the file of the prompts' texts by its name, {} where they are our own.

    PromptBuilder.from_directory reads it, so that every user of the directory has the same prompts.
    """
    return {TEXTS_FILE: texts_file(prompt.texts)} if prompt.texts else {}


def conversations(builder: PromptBuilder) -> dict[str, list]:
    """Return the messages of the task: for all objects, and for the sentence OBJECT."""
    return {"all": builder.messages(None), "one": builder.messages(OBJECT)}


def settings(config: RunConfig, messages: dict[str, list]) -> str:
    """Return what the script and `segr1_jax.load` need to know of a run, as JSON.

    `messages` are those of `conversations`. `sam2` is a repository on the Hub, or None; `nano` says
    that it was the nano SAM2, which is built without post-processing, as the sidecar builds it.
    """
    task, reward = config.prompt.task, portable(config).reward
    known = {
        "task": task,
        "frame": config.prompt.frame,
        "max_new_tokens": config.answer_tokens,
        "sam2": [reward.sam2] if reward.sam2 else None,
        "nano": not (reward.sam2 or reward.sam2_config),
        "postprocessing": reward.postprocessing and bool(reward.sam2 or reward.sam2_config),
        "messages": messages,
    }
    return json.dumps(known, indent=2) + "\n"


def generation_config(base: Path, policy: Policy) -> str:
    """Return the generation config of the base, made greedy as our sampler is.

    It has no penalty on repeated digits, suppresses the tokens that our sampler bans, and ends an
    answer at the same tokens.
    """
    file = base / "generation_config.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    kept = {name: value for name, value in kept.items() if name not in SAMPLING}
    ours = {
        "do_sample": False,
        "eos_token_id": list(Tokenizer(base).end_ids),
        "suppress_tokens": list(policy.arch.never_sampled),
    }
    return json.dumps(kept | ours, indent=2) + "\n"

"""The model card of an export: the policy, its training, and a script that uses it."""

import json
from importlib.resources import files
from pathlib import Path

from segr1_jax.config.resume_rules import config_hash
from segr1_jax.config.schema import RunConfig
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
HEAD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
"""
# build_sam2 finds only the configurations inside the sam2 package, and adds overrides that suit
# only models with several trained masks.
PUBLISHED = (
    "from sam2.build_sam import build_sam2",
    'build_sam2(sam2_config, sam2_weights, device="cpu")',
)
OWN = (
    "import hydra, omegaconf, safetensors.torch",
    "(model := hydra.utils.instantiate(omegaconf.OmegaConf.load(sam2_config).model).eval(), "
    "model.load_state_dict(safetensors.torch.load_file(sam2_weights)))[0]",
)


def model_card(config: RunConfig, source: Path, start: Start) -> str:
    """Return the README of an exported directory, without host names and absolute paths."""
    report = RunDir(source).report
    table = (
        report.read_text().partition("\n\n")[2]
        if report.is_file()
        else "No closing table: the run has not ended.\n"
    )
    sam2 = (
        config.reward.sam2_config
        if config.reward.postprocessing
        else Path(config.reward.sam2_config).name
    )
    frame = config.prompt.frame
    return f"""{HEAD}# Seg-R1 policy

Written by segr1_jax ({_trained(config, start)}),
from {Path(start.base).name}, on {config.data.kind} data.
It answers with boxes and labeled points in pixels of the {frame} x {frame} frame that its image is
stretched to; SAM2 turns these into a mask.
Its reward was given by {sam2 or "the nano SAM2 of segr1_jax (reward/assets)"}.

## Use

`python segment.py IMAGE MASK.png SAM2_CONFIG SAM2_WEIGHTS ["the red fish"]` in this directory, with
this as `segment.py`:

```python
{script(config)}```

If the answer is well formed, it gives the mask of `segr1 predict`, up to pixels at an edge if torch
runs with a different number of threads than `reward.threads`. Otherwise `segr1 predict` gives an
empty mask. Two things matter. Stretch images to the frame yourself, with Pillow's bicubic
filter: a processor that gets another size keeps about the aspect ratio, and even a square image may
end in a neighboring frame. And take the Pillow processor (`backend="pil"`): {DISTANCE}

## Held-out figures

{table}"""


def adapter_card(config: RunConfig, start: Start) -> str:
    """Return the README of an exported adapter."""
    base = Path(start.base).name
    return f"""---
library_name: peft
base_model: {base}
---
# Seg-R1 adapter

Written by segr1_jax ({_trained(config, start)}), for {base}, on {config.data.kind} data.
Rank {start.lora.rank}, alpha {start.lora.alpha:g}.
`peft.PeftModel.from_pretrained(model, DIRECTORY)` puts it on that model. Prompts, frame and SAM2
are those of a whole export (`segr1 export` without `--adapter`), whose card has a script that makes
masks.
"""


def _trained(config: RunConfig, start: Start) -> str:
    if not start.step:
        return "weights unchanged"
    updates = f"{start.step} updates of {config.batch} prompts"
    return f"{config.stage}, {updates}, config hash {config_hash(config)}"


def script(config: RunConfig) -> str:
    """Return the script that turns an image into a mask with an export, transformers and sam2."""
    published = config.reward.postprocessing and config.reward.sam2_config
    sam2_import, sam2_build = PUBLISHED if published else OWN
    text = files("segr1_jax.export").joinpath("assets/segment.py.txt").read_text()
    return text.format(
        sam2_import=sam2_import,
        sam2_build=sam2_build,
        frame=config.prompt.frame,
        max_tokens=config.answer_tokens,
    )


def conversations(builder: PromptBuilder) -> str:
    """Return the messages of the task as JSON: for all objects, and for the sentence OBJECT."""
    found = {"all": builder.messages(None), "one": builder.messages(OBJECT)}
    return json.dumps(found, indent=2) + "\n"


def prompt_texts(prompt: PromptConfig) -> dict[str, str]:
    """Return the file of the prompts' texts by its name, {} where they are our own.

    PromptBuilder.from_directory reads it, so that every user of the directory has the same prompts.
    """
    return {TEXTS_FILE: texts_file(prompt.texts)} if prompt.texts else {}


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

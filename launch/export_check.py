"""Compare an exported directory in transformers with our own forward pass and sampler.

    .venv/bin/python launch/export_check.py configs/quickstart_grpo.yaml [--images 16]

Held-out images go through the exported processor (`backend="pil"`, after a stretch to the frame)
and the exported model, in float32. Token ids, logits of every answer token and the greedy text must
agree; the exit status is 1 if they do not.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

from segr1_jax.config.loading import load_config
from segr1_jax.data.sources import open_source
from segr1_jax.export.check import answer_logits
from segr1_jax.infer.load_policy import open_policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.runtime.hub_files import with_local_files
from segr1_jax.training.held_out import Answerer
from segr1_jax.types import Example

# float32, a whole model summed in another order.
TOLERANCE = 1e-4


class Exported:
    """An exported directory opened with only transformers."""

    def __init__(self, directory: Path, builder: PromptBuilder):
        transformers.logging.set_verbosity_error()
        self._frame = builder.config.frame
        self._builder = builder
        self._processor = transformers.AutoProcessor.from_pretrained(directory)
        self._processor.image_processor = transformers.AutoImageProcessor.from_pretrained(
            directory, backend="pil"
        )
        self._model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32
        ).eval()

    def inputs(self, example: Example):
        image = Image.fromarray(example.image).resize(
            (self._frame, self._frame), Image.Resampling.BICUBIC
        )
        text = self._processor.apply_chat_template(
            self._builder.messages(example.instruction), add_generation_prompt=True
        )
        return self._processor(text=[text], images=[image], return_tensors="pt")

    def logits(self, inputs, answer_ids: np.ndarray) -> np.ndarray:
        """Return the logits [T, V] that predict each answer token."""
        answer = torch.tensor(answer_ids[None].astype(np.int64))
        whole = {key: inputs[key] for key in ("pixel_values", "image_grid_thw")}
        whole["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
        whole["mm_token_type_ids"] = torch.nn.functional.pad(
            inputs["mm_token_type_ids"], (0, answer.shape[1])
        )
        with torch.no_grad():
            return self._model(**whole).logits[0, inputs["input_ids"].shape[1] - 1 : -1].numpy()

    def greedy_ids(self, inputs, max_tokens: int, suppressed: list[int]) -> np.ndarray:
        generated = self._model.generate(
            **inputs, do_sample=False, max_new_tokens=max_tokens, suppress_tokens=suppressed
        )
        return generated[0, inputs["input_ids"].shape[1] :].numpy()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    config = load_config(options.config, ["policy.compute_dtype=float32"])
    config = with_local_files(config, ["eval_data"])
    run = Path(config.run_dir)
    opened = open_policy(config, run)
    source = open_source(config.eval_data)
    examples = [source[index] for index in range(options.images)]
    prompts = [opened.engine.builder.build(example) for example in examples]
    answers = Answerer(opened.engine, opened.rollout_weights, options.images, prompts[0])(prompts)
    ours = answer_logits(opened, prompts, [answer.token_ids for answer in answers])

    exported = Exported(run / "export", opened.engine.builder)
    suppressed = list(opened.engine.policy.arch.never_sampled)
    differences, same_prompts, same_texts = [], 0, 0
    for prompt, example, answer, logits in zip(prompts, examples, answers, ours, strict=True):
        inputs = exported.inputs(example)
        same_prompts += np.array_equal(inputs["input_ids"][0], prompt.token_ids)
        theirs = exported.logits(inputs, answer.token_ids)
        differences.append(np.abs(theirs - logits[: len(theirs)]).max())
        same_texts += np.array_equal(
            exported.greedy_ids(inputs, config.answer_tokens, suppressed), answer.token_ids
        )
    worst = np.max(differences)
    print(
        f"{options.images} images: same prompt ids {same_prompts}, "
        f"same greedy answer {same_texts}, largest logit difference {worst:.2e}"
    )
    return int(not worst <= TOLERANCE or min(same_prompts, same_texts) < options.images)


if __name__ == "__main__":
    sys.exit(main())

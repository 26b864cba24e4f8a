"""Measure how the default image processor of transformers differs from that of training.

    .venv/bin/python launch/processor_distance.py configs/quickstart_grpo.yaml \\
        eval_data.size=224 [--images 200] [--export DIR]
    .venv/bin/python launch/processor_distance.py CONFIG --pixels-only \\
        prompt.frame=756 eval_data.kind=folder eval_data.images=DIR ...

The default processor resizes with torchvision, training with Pillow. Held-out images of CONFIG's
`eval_data` are resized to the model's frame with both; their size must differ from the frame.
Without --pixels-only, the exported directory answers both greedily in transformers (float32), and
SAM2 makes the masks. The script prints differences in gray levels, in the logits of the answer
tokens for Pillow's image, in answers, and the IoU of masks. On a busy machine set
OMP_NUM_THREADS=1, because torch's threads wait for each other on a small model.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers
from export_check import Exported
from jaxtyping import Bool, UInt8
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from segr1_jax.config.checks import MERGED_PATCH, require_fixed_frame
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.sources import open_source
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.policy.params import Policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.patches import model_frame, stretch
from segr1_jax.prompt.tokenizer import Tokenizer
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText
from segr1_jax.reward.terms import Terms
from segr1_jax.runtime.hub_files import with_local_files
from segr1_jax.training.evaluation import Scorer
from segr1_jax.types import Example, Frame


class DefaultResize:
    """The resize inside the default processor, to a given frame."""

    def __init__(self):
        self._processor = Qwen2VLImageProcessor()

    def __call__(
        self, image: UInt8[np.ndarray, "_ _ 3"], frame: Frame
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Resize to `frame` with the base class; the processor itself would choose another size."""
        image_3HW = torch.tensor(image).permute(2, 0, 1)
        size = SizeDict(height=frame.height, width=frame.width)
        resized = super(Qwen2VLImageProcessor, self._processor).resize(
            image_3HW, size=size, resample=self._processor.resample
        )
        return resized.permute(1, 2, 0).numpy()


class Answers:
    """Greedy answers of an exported directory, and the logits that predict them."""

    def __init__(self, config: RunConfig, directory: Path):
        builder = PromptBuilder.from_directory(directory, config.prompt)
        self._exported = Exported(directory, builder)
        self._config = config
        self._default = transformers.AutoProcessor.from_pretrained(directory)
        assert isinstance(self._default.image_processor, Qwen2VLImageProcessor), (
            "the default processor is not torchvision's"
        )
        self._tokenizer = Tokenizer(directory)
        self._suppressed = list(Policy(read_arch(directory)).arch.never_sampled)
        self._resize = DefaultResize()

    def compare(self, example: Example) -> tuple[AnswerText, AnswerText, np.ndarray]:
        """Answer an example with both processors.

        Returns:
            The answer to Pillow's image, the answer to the default processor's image, and the
            absolute difference of the logits of the first answer.
        """
        inputs = self._exported.inputs(example)
        frame = Frame(self._config.prompt.frame, self._config.prompt.frame)
        default = inputs | dict(
            self._default.image_processor(self._resize(example.image, frame), return_tensors="pt")
        )
        assert torch.equal(default["image_grid_thw"], inputs["image_grid_thw"])
        ids, other_ids = (self._greedy(each) for each in (inputs, default))
        difference = np.abs(
            self._exported.logits(inputs, ids) - self._exported.logits(default, ids)
        )
        return self._text(example, ids), self._text(example, other_ids), difference

    def keeps_the_frame(self, example: Example) -> bool:
        """Return whether the default processor resizes the native image to the model's frame."""
        grid = self._default.image_processor(np.array(example.image), return_tensors="pt")[
            "image_grid_thw"
        ][0].tolist()
        return grid == [
            1,
            *[self._config.prompt.frame // self._default.image_processor.patch_size] * 2,
        ]

    def _greedy(self, inputs) -> np.ndarray:
        return self._exported.greedy_ids(inputs, self._config.answer_tokens, self._suppressed)

    def _text(self, example: Example, ids: np.ndarray) -> AnswerText:
        return AnswerText(
            example, self._tokenizer.decode(ids), finished=bool({*self._tokenizer.end_ids} & {*ids})
        )


def mask_iou(
    first: Bool[np.ndarray, "H W"] | None, second: Bool[np.ndarray, "H W"] | None
) -> float:
    """Return the IoU of two masks.

    It is 1 if there is no mask or both are empty, and 0 if there is only one mask.
    """
    if first is None or second is None:
        return float(first is second)
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def print_pixels(config: RunConfig, examples: list[Example]) -> None:
    resize = DefaultResize()
    differences, above_one = [], []
    worst = 0
    for example in examples:
        frame = model_frame(example.frame, config.prompt, MERGED_PATCH, example.name)
        ours = stretch(example.image, frame.height, frame.width).astype(int)
        difference = np.abs(ours - resize(example.image, frame))
        differences.append(difference.mean())
        above_one.append((difference > 1).mean())
        worst = max(worst, difference.max())
    print(
        f"{len(examples)} images, gray levels of 255: mean difference {np.mean(differences):.4f}, "
        f"largest {worst}, share of values more than 1 apart {np.mean(above_one):.2e}"
    )


def print_answers(config: RunConfig, directory: Path, examples: list[Example]) -> None:
    answers = Answers(config, directory)
    firsts, seconds, logits = zip(*[answers.compare(example) for example in examples], strict=True)
    same = np.mean(
        [first.text == second.text for first, second in zip(firsts, seconds, strict=True)]
    )
    with RewardClient(config.reward) as client:
        scorer = Scorer(
            client,
            lambda _: Frame(config.prompt.frame, config.prompt.frame),
            config.prompt.task,
            Terms(config.reward),
        )
        (rows, judged), (other_rows, other_judged) = scorer.rows(firsts), scorer.rows(seconds)
    iou, other_iou = (np.array([row.iou for row in each]) for each in (rows, other_rows))
    gain = other_iou - iou
    agreement = [mask_iou(a.mask, b.mask) for a, b in zip(judged, other_judged, strict=True)]
    error = np.std(gain, ddof=1) / np.sqrt(len(gain))
    mean, worst = np.mean([each.mean() for each in logits]), np.max([each.max() for each in logits])
    print(f"logits of answer tokens: mean difference {mean:.1e}, largest {worst:.1e}")
    print(
        f"greedy answers identical: {same:.1%}; IoU of the two masks: "
        f"mean {np.mean(agreement):.4f}, lowest {np.min(agreement):.3f}"
    )
    print(
        f"IoU with the truth: Pillow {iou.mean():.4f}, default {other_iou.mean():.4f}, "
        f"difference {gain.mean():+.4f} +- {error:.4f}"
    )
    kept = np.mean([answers.keeps_the_frame(example) for example in examples])
    print(f"native images that the default processor resizes to this frame by itself: {kept:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument(
        "--export", type=Path, help="exported directory; default: export/ in the run directory"
    )
    parser.add_argument(
        "--pixels-only", action="store_true", help="compare only gray levels, without a policy"
    )
    options = parser.parse_intermixed_args()
    config = load_config(options.config, options.overrides)
    config = with_local_files(config, ["eval_data", "reward"])
    source = open_source(config.eval_data)
    examples = [source[index] for index in range(min(options.images, len(source)))]
    print_pixels(config, examples)
    if not options.pixels_only:
        require_fixed_frame(config)
        print_answers(config, options.export or Path(config.run_dir) / "export", examples)


if __name__ == "__main__":
    main()

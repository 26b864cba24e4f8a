"""Segment an object of an image with this Seg-R1 policy and SAM2.

    python segment.py IMAGE MASK.png --sam2 facebook/sam2.1-hiera-large --object "the red fish"
    python segment.py IMAGE MASK.png --sam2 CONFIG.yaml WEIGHTS

Without --object the mask is that of all primary objects; without --sam2 the SAM2 is the one that
the policy was trained with, where that is on the Hugging Face Hub. This needs torch, transformers
and sam2. Exit status 1 if the answer holds no mask; no file is written then.

Shape legend: H W image in pixels; N boxes; K points.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import hydra
import numpy as np
import omegaconf
import safetensors.torch
import sam2
import torch
from huggingface_hub import hf_hub_download, snapshot_download
from PIL import Image, ImageOps
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from sam2.sam2_image_predictor import SAM2ImagePredictor
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    Qwen2_5_VLForConditionalGeneration,
    image_transforms,
)

HERE = Path(__file__).parent
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Answer:
    """Boxes (x1, y1, x2, y2) and points (x, y) in pixels of the square frame of the policy.

    A label is 1 for a point on the object and 0 for a point on the background.
    """

    boxes_N4: np.ndarray
    points_K2: np.ndarray
    labels_K: np.ndarray


class Segmenter:
    """The policy in `folder` and a SAM2, ready to segment images."""

    def __init__(self, sam2_parts: list[str] | None = None, folder: Path = HERE):
        """Load both. `sam2_parts` is [ORG/NAME], [CONFIG, WEIGHTS], or None, as --sam2 takes."""
        self.settings = json.loads((folder / "segment.json").read_text())
        self.processor = AutoProcessor.from_pretrained(folder)
        # The default processor resizes and rounds differently.
        self.processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.policy = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.predictor = make_predictor(sam2_parts or self.settings["sam2"], self.settings)

    def mask(self, image: Image.Image, sentence: str | None = None) -> np.ndarray | None:
        """Return the mask (H, W) of the object that `sentence` names, or of all primary objects.

        None if the answer of the policy holds no mask.
        """
        rgb_HW3 = upright_rgb(image)
        text = self.answer(rgb_HW3, sentence)
        answer = read_answer(text, self.settings["frame"], boxed=self.settings["task"] != "prerl")
        return None if answer is None else self.draw(answer, rgb_HW3)

    def answer(self, rgb_HW3: np.ndarray, sentence: str | None = None) -> str:
        """Return the greedy answer of the policy as text."""
        side = self.settings["frame"]
        # A processor that gets another size keeps about the aspect ratio.
        framed = Image.fromarray(rgb_HW3).resize((side, side), Image.Resampling.BICUBIC)
        text = self.processor.apply_chat_template(
            conversation(self.settings, sentence), add_generation_prompt=True
        )
        inputs = self.processor(text=[text], images=[framed], return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        tokens = self.policy.generate(
            **inputs, do_sample=False, max_new_tokens=self.settings["max_new_tokens"]
        )
        return self.processor.decode(tokens[0, length:], skip_special_tokens=True)

    def draw(self, answer: Answer, rgb_HW3: np.ndarray) -> np.ndarray:
        """Return the union of SAM2's masks (H, W): one for each box, with the points inside it."""
        height, width = rgb_HW3.shape[:2]
        scale = np.array([width, height]) / self.settings["frame"]
        mask_HW = np.zeros((height, width), bool)
        self.predictor.set_image(rgb_HW3)
        for box, inside_K in prompts_of(answer):
            points = {
                "point_coords": answer.points_K2[inside_K] * scale,
                "point_labels": answer.labels_K[inside_K],
            }
            logits, *_ = self.predictor.predict(
                **(points if inside_K.any() else {}),
                box=None if box is None else (box.reshape(2, 2) * scale).ravel(),
                multimask_output=False,
            )
            mask_HW |= logits[0] > 0
        return mask_HW


def make_predictor(parts: list[str] | None, settings: dict) -> SAM2ImagePredictor:
    """Return a SAM2 for images, of a repository on the Hub or of a configuration and weights."""
    if not parts or len(parts) > 2:
        raise SystemExit("segment.py: name a SAM2 with --sam2 ORG/NAME or --sam2 CONFIG WEIGHTS")
    config, weights = hub_files(parts[0]) if len(parts) == 1 else parts
    model = make_model(config, settings["postprocessing"])
    model.load_state_dict(read_weights(weights))
    predictor = SAM2ImagePredictor(model.eval())
    # sam2 fixes these sizes for images of 1024 pixels.
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return predictor


def hub_files(name: str) -> tuple[str, str]:
    """Return configuration and weights of ORG/NAME[@REVISION], which the first call downloads."""
    repository, _, revision = name.partition("@")
    if repository in HF_MODEL_ID_TO_FILENAMES:
        config, weights = HF_MODEL_ID_TO_FILENAMES[repository]
        return config, hf_hub_download(repository, weights, revision=revision or None)
    patterns = ["*.yaml", "*.pt", "*.safetensors"]
    folder = snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
    files = sorted(Path(folder).iterdir())
    (config,) = [file for file in files if file.suffix == ".yaml"]
    (weights,) = [file for file in files if file.suffix in (".pt", ".safetensors")]
    return str(config), str(weights)


def make_model(config: str, postprocessing: bool) -> torch.nn.Module:
    """Return the model of a YAML file, or of a name inside the sam2 package, without weights.

    `postprocessing` adds the overrides of build_sam2, which suit models of several trained masks.
    """
    file = config if Path(config).is_file() else Path(sam2.__path__[0]) / config
    tree = omegaconf.OmegaConf.load(file)
    # Hydra calls what a file names, so a class of another package could run any program.
    for target in re.findall(r"_target_: *(\S+)", omegaconf.OmegaConf.to_yaml(tree)):
        if not hydra.utils.get_class(target).__module__.startswith("sam2."):
            raise SystemExit(f"segment.py: {file} names {target}, which is not a class of sam2")
    if postprocessing:
        overrides = {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        }
        omegaconf.OmegaConf.update(
            tree, "model.sam_mask_decoder_extra_args", overrides, force_add=True
        )
    return hydra.utils.instantiate(tree.model)


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Return the weights of a .safetensors file, or of a .pt file with an entry `model`."""
    if path.endswith(".safetensors"):
        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Return the pixels (H, W, 3) of an image, turned as its EXIF says, over white."""
    upright = ImageOps.exif_transpose(image)
    return np.array(image_transforms.convert_to_rgb(upright, return_numpy=True))


def conversation(settings: dict, sentence: str | None) -> list[dict]:
    """Return the messages of the prompt."""
    if sentence is None:
        return settings["messages"]["all"]
    quoted = json.dumps(sentence)[1:-1]
    return json.loads(json.dumps(settings["messages"]["one"]).replace("{object}", quoted))


def read_answer(text: str, frame: int, *, boxed: bool) -> Answer | None:
    """Return the boxes and points of an answer, or None if it holds no mask.

    That is the case without points or, if `boxed`, without a box; with points that lack a label;
    and with coordinates outside the frame.
    """
    text = text.split("</think>")[-1]
    boxes = [numbers(each) for each in re.findall(r"<bbox>(.*?)</bbox>", text)]
    points = numbers(" ".join(re.findall(r"<points>(.*?)</points>", text)))
    labels = numbers(" ".join(re.findall(r"<labels>(.*?)</labels>", text)))
    boxes_are_whole = all(len(box) == 4 and box[0] < box[2] and box[1] < box[3] for box in boxes)
    each_has_a_label = points and len(points) == 2 * len(labels) and set(labels) <= {0, 1}
    if not boxes_are_whole or not each_has_a_label or bool(boxes) != boxed:
        return None
    if max(points + [edge for box in boxes for edge in box]) > frame:
        return None
    return Answer(
        np.array(boxes, float).reshape(-1, 4),
        np.array(points, float).reshape(-1, 2),
        np.array(labels),
    )


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a text."""
    return [int(digits) for digits in NUMBER.findall(text)]


def prompts_of(answer: Answer) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """Return one SAM2 call per box: the box, and which points lie inside it.

    Without boxes, one call takes all points.
    """
    if not len(answer.boxes_N4):
        return [(None, np.full(len(answer.points_K2), True))]
    return [
        (box, ((answer.points_K2 >= box[:2]) & (answer.points_K2 <= box[2:])).all(1))
        for box in answer.boxes_N4
    ]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Segment an object of an image.")
    parser.add_argument("image", type=Path)
    parser.add_argument("mask", type=Path, help="PNG to write, white on black")
    parser.add_argument("--sam2", nargs="+", metavar="PART", help="ORG/NAME, or CONFIG WEIGHTS")
    parser.add_argument("--object", metavar="TEXT", help="sentence that selects the object")
    options = parser.parse_args()
    with Image.open(options.image) as image:
        mask_HW = Segmenter(options.sam2).mask(image, options.object)
    if mask_HW is None:
        print(f"segment.py: the answer about {options.image} holds no mask", file=sys.stderr)
        return 1
    Image.fromarray(mask_HW).save(options.mask)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Prompt wording of each task, and the chat layout of Qwen2.5-VL.

The three tasks follow the stages of the paper: reasoning with boxes and points, points alone, and
the cold start's shorter wording with the question before the image. The sentences are our own;
prompt/texts.py reads those of other policies.
"""

from collections.abc import Iterator, Mapping, Sequence

from segr1_jax.prompt.texts import Texts, placeholders

IMAGE_PAD = "<|image_pad|>"
DEFAULT_SYSTEM = "You are a helpful assistant."
EVERYTHING = "all primary objects."  # the sentence about a sample without one

_SYSTEM = (
    "The user asks for a segmentation of an image, and you answer it. "
    "First you reason in your mind, then you give the answer. "
    "The reasoning stands inside <think> </think>, each bounding box inside <bbox> </bbox>, "
    "all points inside <points> </points> and their labels inside <labels> </labels>, that is, "
    "{template}. Coordinates are pixels of the image.\n"
)
_LABELS = "Label 1 is a point on the object, label 0 a point on the background.\n"
_MODERATE = (
    "Give a moderate number of points: enough to outline the object, "
    "not so many that they burden the segmentation."
)
_REQUEST = "Identify and segment {instruction}\n"
_FORMAT = "Use exactly this format: {template}"
_POINTS_TASK = (
    "Give a sparse set of point prompts for the most salient object of the image, "
    "on the object and on the background. A moderate number is enough. "
)
_POINTS = "<points>[[x1,y1],[x2,y2],...]</points>, <labels>[1,0,...]</labels>"
_BOXES = f"<think> reasoning process here </think> <bbox>[x1,y1,x2,y2]</bbox>, {_POINTS}"
TEXTS: Texts = {
    "rl": {
        "system": _SYSTEM + _LABELS + _MODERATE,
        "user": "{image}" + _REQUEST + _FORMAT,
        "everything": "",
        "template": _BOXES,
    },
    "prerl": {
        "system": "",
        "user": "{image}" + _REQUEST + _FORMAT,
        "everything": "{image}" + _POINTS_TASK + _FORMAT,
        "template": _POINTS,
    },
    "sft": {
        "system": _SYSTEM,
        "user": _REQUEST + "{image}",
        "everything": "",
        "template": _BOXES,
    },
}


def messages(task: str, instruction: str | None = None, texts: Texts = TEXTS) -> list[dict]:
    """Return the conversation in the message format of Hugging Face chat templates.

    `task` is rl, prerl or sft. `instruction` is the phrase that selects the object ("the red
    fish"), None for all primary objects. `texts` are those of prompt/texts.py.

    Example:
        >>> messages("prerl")[0]["content"][0]
        {'type': 'image'}
    """
    own = texts[task]
    values = {"instruction": instruction or EVERYTHING, "template": own["template"]}
    asked = own["everything"] if instruction is None and own["everything"] else own["user"]
    turns = [{"role": "user", "content": _content(asked, values)}]
    if own["system"]:
        (system,) = _content(own["system"], values)
        turns.insert(0, _system(system["text"]))
    return turns


def _content(text: str, values: Mapping[str, str]) -> list[dict]:
    """Return the parts of a turn: {image} is an image, other placeholders have `values`."""
    parts = [""]
    for literal, name in placeholders(text):
        parts[-1] += literal
        if name == "image":
            parts += [None, ""]
        elif name is not None:
            parts[-1] += values[name]
    return [
        {"type": "image"} if part is None else {"type": "text", "text": part}
        for part in parts
        if part != ""
    ]


def chat_text(conversation: list[dict], image_tokens: Sequence[int]) -> str:
    """Format the conversation like Qwen2.5-VL's chat template, up to the assistant's turn.

    `image_tokens` is the number of pad tokens of each image, in order. Raises ValueError unless it
    has one number for each image of the conversation.
    """
    if conversation[0]["role"] != "system":
        conversation = [_system(DEFAULT_SYSTEM), *conversation]
    if (images := sum(text is None for text in parts(conversation))) != len(image_tokens):
        raise ValueError(f"{images} images in the conversation, {len(image_tokens)} given")
    visions = (f"<|vision_start|>{IMAGE_PAD * count}<|vision_end|>" for count in image_tokens)
    turns = []
    for turn in conversation:
        content = "".join(next(visions) if text is None else text for text in parts([turn]))
        turns.append(f"<|im_start|>{turn['role']}\n{content}<|im_end|>\n")
    return "".join(turns) + "<|im_start|>assistant\n"


def parts(conversation: list[dict]) -> Iterator[str | None]:
    """Yield the parts of the conversation in order: a text, or None for an image."""
    for turn in conversation:
        if isinstance(turn["content"], str):
            yield turn["content"]
        else:
            yield from (
                part["text"] if part["type"] == "text" else None for part in turn["content"]
            )


def _system(text: str) -> dict:
    return {"role": "system", "content": text}

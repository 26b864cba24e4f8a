"""Prompt wording of each task, and the chat layout of Qwen2.5-VL.

The three tasks follow the stages of the paper: reasoning with boxes and points, points alone, and
the cold start's shorter wording with the question before the image. The sentences are our own.
"""

from collections.abc import Iterator, Sequence

IMAGE_PAD = "<|image_pad|>"
DEFAULT_SYSTEM = "You are a helpful assistant."
TEMPLATE = (
    "<think> reasoning process here </think> <bbox>[x1,y1,x2,y2]</bbox>, "
    "<points>[[x1,y1],[x2,y2],...]</points>, <labels>[1,0,...]</labels>"
)
POINTS_TEMPLATE = "<points>[[x1,y1],[x2,y2],...]</points>, <labels>[1,0,...]</labels>"

_SYSTEM = (
    "The user asks for a segmentation of an image, and you answer it. "
    "First you reason in your mind, then you give the answer. "
    "The reasoning stands inside <think> </think>, each bounding box inside <bbox> </bbox>, "
    "all points inside <points> </points> and their labels inside <labels> </labels>, that is, "
    + TEMPLATE
    + ". Coordinates are pixels of the image.\n"
)
_LABELS = "Label 1 is a point on the object, label 0 a point on the background.\n"
_MODERATE = (
    "Give a moderate number of points: enough to outline the object, "
    "not so many that they burden the segmentation."
)
_EVERYTHING = "all primary objects."
_POINTS_TASK = (
    "Give a sparse set of point prompts for the most salient object of the image, "
    "on the object and on the background. A moderate number is enough. "
)


def messages(task: str, instruction: str | None = None) -> list[dict]:
    """Return the conversation in the message format of Hugging Face chat templates.

    `task` is rl, prerl or sft. `instruction` is the phrase that selects the object ("the red
    fish"), None for all primary objects.

    Example:
        >>> messages("prerl")[0]["content"][0]
        {'type': 'image'}
    """
    image = {"type": "image"}
    request = f"Identify and segment {instruction or _EVERYTHING}\n"
    if task == "prerl":
        points = _POINTS_TASK if instruction is None else request
        return [_user(image, _text(f"{points}Use exactly this format: {POINTS_TEMPLATE}"))]
    if task == "sft":
        return [_system(_SYSTEM), _user(_text(request), image)]
    return [
        _system(_SYSTEM + _LABELS + _MODERATE),
        _user(image, _text(f"{request}Use exactly this format: {TEMPLATE}")),
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


def _user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


def _text(text: str) -> dict:
    return {"type": "text", "text": text}

"""The page of the demo in Gradio: upload or example, question, mask, reasoning and answer.

Texts of the policy and names are shown in text fields, never as HTML or Markdown.
"""

import os
from typing import Any

from segr1_jax.answer.grammar import split_thinking
from segr1_jax.common.optional_packages import optional_package
from segr1_jax.infer.demo_answers import LONGEST, Demo
from segr1_jax.runtime.lineage import only_synthetic, policy_name, runs_behind

MOST_WAITING = 8  # queued requests; one is answered at a time
HOTTEST = 2.0
KEPT_S = 3600  # maximum age of an upload in seconds
HEAD = (
    "# Seg-R1\nThe policy looks at an image, reasons in words, and marks objects by boxes and "
    "points; SAM2 turns these into a mask. Choose an image, say what to segment (or leave it empty "
    "for all primary objects), and ask."
)
SYNTHETIC = (
    "**This policy was trained on synthetic pictures only.** Expect good masks on pictures like "
    "the examples, and poor ones on photographs."
)


def build_page(demo: Demo):
    """Build the Gradio page, with system fonts."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gradio = optional_package("gradio", "demo")
    with gradio.Blocks(
        title="Seg-R1", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)
    ) as page:
        gradio.Markdown(HEAD)
        if only_synthetic(runs_behind(demo.start) or []):
            gradio.Markdown(SYNTHETIC)
        with gradio.Row():
            with gradio.Column():
                questions, ask = _questions(gradio, demo)
            with gradio.Column():
                answers = _answers(gradio)
        ask.click(lambda *asked: _asked(demo, *asked), questions, answers, api_name=False)
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)


def _questions(gradio: Any, demo: Demo) -> tuple[list[Any], Any]:
    """Return the fields of a question, and the button that asks it."""
    gradio.Textbox(policy_name(demo.start), label="Policy", interactive=False)
    image = gradio.Image(type="filepath", sources=["upload"], label="Image")
    # The uploaded file: Gradio would decode it, and say only "Error" if it cannot.
    image.preprocess = lambda payload: payload and payload.path
    sentence = gradio.Textbox(
        label="What to segment", placeholder="the left cat", max_length=LONGEST
    )
    temperature = gradio.Slider(
        0, HOTTEST, value=0, step=0.1, label="Temperature (0: the most likely answer)"
    )
    ask = gradio.Button("Ask", variant="primary")
    if examples := demo.examples():
        rows = [[str(example.image), example.sentence] for example in examples]
        gradio.Examples(rows, [image, sentence], label="Pictures to try", cache_examples=False)
    return [image, sentence, temperature], ask


def _answers(gradio: Any) -> list[Any]:
    """Return the fields of an answer."""
    return [
        gradio.Image(
            type="filepath",
            label="Mask, box and points",
            interactive=False,
            buttons=["download", "fullscreen"],
        ),
        gradio.Textbox(label="Result", interactive=False),
        gradio.Textbox(label="Thinking", interactive=False, lines=3),
        gradio.Textbox(label="Answer", interactive=False, lines=2),
        gradio.Files(label="Mask and answer to download", interactive=False),
    ]


def _asked(
    demo: Demo, image: str | None, sentence: str, temperature: float
) -> tuple[str | None, str, str, str, list[str] | None]:
    """Return the contents of the fields of `_answers`."""
    shown = demo.answer(image, sentence, temperature)
    thinking, answer = split_thinking(shown.text)
    files = [str(file) for file in shown.files] or None
    return shown.picture and str(shown.picture), shown.status, thinking, answer, files

"""What the policy is shown and asked."""

from dataclasses import dataclass

from segr1_jax.knobs import knob, require_choice, require_range

TASKS = ("rl", "prerl", "sft")


@dataclass(frozen=True)
class PromptConfig:
    """Prompt text and the fixed square frame images are stretched to."""

    task: str = knob("rl", "which prompt text: rl (think, boxes, points), prerl (points only), sft (the paper's cold-start wording)")
    frame: int = knob(756, "side in pixels of the square model frame; a multiple of patch * merge (28)")
    max_tokens: int = knob(1152, "longest prompt in tokens; longer ones are rejected when built, never cut")

    def __post_init__(self):
        require_choice("prompt.task", self.task, TASKS)
        require_range("prompt.frame", self.frame, 28)
        require_range("prompt.max_tokens", self.max_tokens, 8)

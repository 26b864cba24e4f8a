"""The one error class for bad input, which names the place, what was expected, what came, and the remedy; and the orderly early end."""

import signal


class UserError(ValueError):
    """Input the user can mend. The command line prints it as one message without a traceback.

    Example:
        >>> str(UserError("data/cat.png", expected="a mask of 640x480", got="512x512", remedy="resize the mask or fix the pair"))
        'data/cat.png: expected a mask of 640x480, got 512x512. Remedy: resize the mask or fix the pair.'
    """

    def __init__(self, where: str, *, expected: str, got: str, remedy: str):
        super().__init__(
            f"{where}: expected {expected}, got {got}. Remedy: {remedy}{'' if remedy.endswith(('.', '?')) else '.'}"
        )
        self.where, self.expected, self.got, self.remedy = where, expected, got, remedy


class Preempted(Exception):
    """A run was asked to stop (SIGTERM, Ctrl-C) and has saved its last step.

    That is no fault: the same command continues. `status` is the exit status that schedulers and
    shells expect, 128 plus the signal.
    """

    def __init__(self, step: int, number: int):
        done = f"after step {step}, which is saved" if step else "before the first step"
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} {done}; the same command continues from there")
        self.step, self.status = step, 128 + number

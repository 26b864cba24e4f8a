"""The error class for bad input, and the exception that ends a run early after a signal."""

import signal


class UserError(ValueError):
    """Input that the user can fix. The command line prints it as one message without a traceback.

    Example:
        >>> str(UserError("cat.png", expected="640x480", got="512x512", remedy="resize the mask"))
        'cat.png: expected 640x480, got 512x512. Remedy: resize the mask.'
    """

    def __init__(self, where: str, *, expected: str, got: str, remedy: str):
        end = "" if remedy.endswith((".", "?")) else "."
        super().__init__(f"{where}: expected {expected}, got {got}. Remedy: {remedy}{end}")
        self.where = where
        self.expected = expected
        self.got = got
        self.remedy = remedy


class Preempted(Exception):
    """Orderly end of a run that received SIGTERM or Ctrl-C and has saved its last step.

    This is not a fault: the same command resumes the run. `status` is the exit status that
    schedulers and shells expect, 128 plus the signal number.
    """

    def __init__(self, step: int, number: int):
        done = f"after step {step}, which is saved" if step else "before the first step"
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} {done}; the same command continues from there")
        self.step, self.status = step, 128 + number

"""Why a part that ran as a process of its own ended early."""

import signal

# Characters of the last line of the output in the result.
MAX_LINE = 300


def ending(status: int, output: str) -> str:
    """Return in one line the exit status of a process and the last line of its output.

    Example:
        >>> ending(-9, "compiling\\n")
        'killed by SIGKILL: compiling'
    """
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1].strip()[:MAX_LINE] if lines else "it printed nothing"
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{how}: {last}"

"""Compare the checkpoint of the two steps, restored in another process, with the saved state."""

import json

from first_day_parts.digests import digests, digests_file
from first_day_parts.request import Request, Row, verdict
from first_day_parts.training import overrides

from segr1_jax.config.loading import load_config
from segr1_jax.errors import UserError
from segr1_jax.runtime.hub_files import with_local_files
from segr1_jax.training.run import Run


def measure(request: Request) -> list[Row]:
    """Return one row with the number of bitwise equal arrays."""
    file = digests_file(request.run)
    if not file.is_file():
        raise UserError(
            "checkpoint", expected="one of the two steps", got="none", remedy="see training.log"
        )
    config = load_config(request.file, overrides(request))
    request.prepare_jax()
    config = with_local_files(config)
    with Run(config) as run:
        step = run.first_step
        restored = digests(run.state, run.feed.position)
    saved = json.loads(file.read_text())
    equal = sum(restored.get(name) == digest for name, digest in saved.items())
    good = equal == len(saved) == len(restored) and step == config.steps
    expected = f"{len(saved)} arrays of step {config.steps} equal bit by bit"
    return [Row("checkpoint restored", expected, f"{equal} of step {step}", verdict(good))]

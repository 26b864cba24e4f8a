"""The checkpoint of the two steps, restored by another process, against what was saved."""

import json

from first_day_parts.digests import digests, digests_file
from first_day_parts.request import Request, Row, verdict
from first_day_parts.training import overrides

from segr1_jax.config.loading import load_config
from segr1_jax.errors import UserError
from segr1_jax.train.run import Run


def measure(request: Request) -> list[Row]:
    """One row: the arrays that are equal to the bit."""
    file = digests_file(request.run)
    if not file.is_file():
        raise UserError(
            "checkpoint", expected="one of the two steps", got="none", remedy="see training.log"
        )
    config = load_config(request.file, overrides(request))
    request.prepare_jax()
    with Run(config) as run:
        step, found = run.first_step, digests(run.state, run.position)
    saved = json.loads(file.read_text())
    equal = sum(found.get(name) == digest for name, digest in saved.items())
    good = equal == len(saved) == len(found) and step == config.steps
    expected = f"{len(saved)} arrays of step {config.steps} equal to the bit"
    return [Row("checkpoint restored", expected, f"{equal} of step {step}", verdict(good))]

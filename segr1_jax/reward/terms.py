"""The terms of the reward: their weights, and the values of the user-defined ones.

A user-defined term is called for each answer that parses, with the arguments that it names:

    text     what the policy wrote
    answer   the parsed Answer (types.py), in pixels of the model's frame
    mask     SAM2's mask, bool, resized to the size of `truth`
    truth    the ground-truth mask of the sample, bool
    example  the Example: name, image, instruction

It returns a finite number. It must be a pure function: the processes of a run score their own
groups, and a resumed run repeats its step. Arrays are read-only.

A fault (an exception, a missed deadline, a result that is not a finite number) counts as ours, not
the policy's, just as an unanswered SAM2 request does: the completion leaves its group, and a line
on standard error names the function and the sample. A reward of 0 would teach the policy to avoid
samples on which a function fails, and ending the run would waste a whole night because of a single
odd sample. If more than FAULT_SHARE of its calls fail, a function is considered broken, and the run
ends.
"""

import dataclasses
import math
import numbers
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.resize import resize_mask
from segr1_jax.reward.term_deadline import DeadlinePassed, deadline
from segr1_jax.reward.term_entries import own_entries
from segr1_jax.reward.term_files import OwnTerm, described, open_term
from segr1_jax.types import Answer, Example

# Share of the calls of a function that may fail, once more than FAULT_FLOOR have.
FAULT_SHARE = 0.01
FAULT_FLOOR = 20


class TermFault(Exception):
    """A user-defined term gave no value for a sample; the message names both."""


class Terms:
    """The terms of a reward, with this process's counts of calls and faults of user-defined ones.

    Attributes:
        weights: the weight of each term by name, in the order in which they are added up.
        own_names: the names of the user-defined terms.
    """

    def __init__(self, reward: RewardConfig):
        self.weights: Mapping[str, float] = reward.term_weights
        self._own = [
            open_term(place, reward.term_files.get(place.function))
            for place in own_entries(reward.terms)
        ]
        self.own_names = tuple(term.place.function for term in self._own)
        self._seconds = reward.term_timeout_s
        self._calls, self._faults = Counter(), Counter()

    @property
    def need_masks(self) -> bool:
        """True if a term reads the predicted mask, which the sidecar then has to send."""
        return any("mask" in term.wants for term in self._own)

    def own_values(
        self, text: str, answer: Answer, mask: Bool[np.ndarray, "H W"] | None, example: Example
    ) -> dict[str, float]:
        """Return the value of each user-defined term by name. `mask` is needed if `need_masks`.

        Raises:
            TermFault: a function gave no value.
            UserError: it has failed too often.
        """
        if not self._own:
            return {}
        if mask is not None:
            mask = _read_only(resize_mask(mask, example.mask.shape))
        example = _with_read_only_arrays(example)
        given = {
            "text": text,
            "answer": answer,
            "mask": mask,
            "truth": example.mask,
            "example": example,
        }
        return {term.place.function: self._value(term, given) for term in self._own}

    def _value(self, term: OwnTerm, given: Mapping[str, Any]) -> float:
        self._calls[term.place] += 1
        try:
            return _call(term, {name: given[name] for name in term.wants}, self._seconds)
        except TermFault as fault:
            name = given["example"].name
            self._count_fault(term, name, str(fault))
            raise TermFault(f"{term.place}: sample {name}: {fault}") from fault

    def _count_fault(self, term: OwnTerm, name: str, fault: str) -> None:
        self._faults[term.place] += 1
        print(f"reward: {term.place} failed on sample {name}: {fault}", file=sys.stderr, flush=True)
        calls, faults = self._calls[term.place], self._faults[term.place]
        if faults > max(FAULT_FLOOR, FAULT_SHARE * calls):
            raise UserError(
                str(term.place),
                expected=f"a finite number for all but {FAULT_SHARE:.0%} of the answers",
                got=f"{faults} faults in {calls} calls, the last on sample {name}: {fault}",
                remedy="fix the function, and start the run again in another run_dir",
            )


def _call(term: OwnTerm, given: Mapping[str, Any], seconds: float) -> float:
    """Return the number that a term gives. Raises TermFault where it gives none."""
    try:
        with deadline(seconds):
            value = term.call(**given)
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        number = float(value) if is_number else math.nan
    except DeadlinePassed:
        raise TermFault(f"no result within reward.term_timeout_s = {seconds:g}") from None
    # A call of sys.exit would end the run without a word.
    except (Exception, SystemExit) as error:
        raise TermFault(described(error, term.place.file)) from error
    if not math.isfinite(number):
        got = f"{number}" if is_number else f"a {type(value).__name__}"
        raise TermFault(f"expected a finite number, got {got}")
    return number


def _with_read_only_arrays(example: Example) -> Example:
    arrays = {
        field.name: _read_only(value)
        for field in dataclasses.fields(example)
        if isinstance(value := getattr(example, field.name), np.ndarray)
    }
    return dataclasses.replace(example, **arrays)


def _read_only(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    view = array.view()
    view.setflags(write=False)
    return view

"""Every status has its own words."""

from segr1_jax.metrics.predictions import QUARANTINED, SKIPPED
from segr1_jax.metrics.status_meanings import MEANINGS, meaning
from segr1_jax.types import ParseStatus


def test_every_status_has_words_of_its_own():
    assert set(MEANINGS) == {status.value for status in ParseStatus} | {QUARANTINED, SKIPPED}
    assert len(set(MEANINGS.values())) == len(MEANINGS)


def test_a_status_of_another_version_stands_for_itself():
    assert meaning("new_fault") == "new_fault"

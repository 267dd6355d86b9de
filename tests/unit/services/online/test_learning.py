"""What the records say of a condition, and what a family lacks."""

import os
import threading

import torch
from bem_fleet.services.online.learning import LearnerThread, code_of, standing_of
from bem_fleet.services.online.version_record import VersionState

from tests.support.tiny_bank import WIDTH
from tests.unit.services.online.hosts import FAMILY, OTHER, bank, record


def test_attempts_count_from_the_last_version_that_passed() -> None:
    """The live version's batches are known; the newest attempt's events were tried."""
    live = record(("1-0",), number=2, state=VersionState.LIVE)
    other = record(number=3, changed=OTHER, lineage={OTHER: (("9-0",),)})
    rejected = record(("1-0", "2-0"), number=4, state=VersionState.REJECTED)
    first = record(("0-0",), number=1, state=VersionState.REJECTED)
    standing = standing_of(FAMILY, [first, live, other, rejected], 2)
    fresh = standing_of("new", [live], 2)

    assert standing.known == (("1-0",),)
    assert standing.tried == {"1-0", "2-0"}
    assert standing.attempt == 2
    assert (fresh.known, fresh.tried, fresh.attempt) == ((), frozenset(), 1)


def test_withdrawn_attempts_do_not_count_as_tried() -> None:
    """After a forgetting the rest of the events is learned anew at once."""
    withdrawn = record(("1-0", "2-0"), number=1, state=VersionState.WITHDRAWN)
    standing = standing_of(FAMILY, [withdrawn], 0)

    assert standing.tried == frozenset()


def test_missing_condition_has_the_code_of_the_base_model() -> None:
    """Zeros."""
    assert torch.equal(code_of(bank().empty_codebook(), FAMILY, WIDTH), torch.zeros(WIDTH))


async def test_learner_thread_has_the_lowest_priority() -> None:
    """The engine's threads come first; the priority of the process stays as it is."""
    thread = LearnerThread()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    inside = await thread.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    thread.close()

    assert (inside, os.getpriority(os.PRIO_PROCESS, 0)) == (19, before)

"""Path of requests through active missions, on the tiny model."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from bem_fleet.studies.compatibility import shared_engine
from bem_fleet.studies.compatibility.request_path import RequestPath
from bem_fleet.studies.compatibility.shared_engine import (
    EngineParts,
    SharedEngine,
    open_shared_engine,
)

from tests.support.compatibility_seed import (
    ITEM,
    NAMED,
    WithholdingGuard,
    load_tiny,
    tiny_sites,
    write_seed,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEngine]:
    """A started engine without front and without basis."""
    seed = write_seed(tmp_path_factory.mktemp("seed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_engine, "open_bank", tiny_sites)
        opened = open_shared_engine(load_tiny(), seed, EngineParts())
    yield opened
    opened.close()


def path(
    shared: SharedEngine, *missions: str, guard: WithholdingGuard | None = None
) -> RequestPath:
    """Return the path of some missions."""
    return RequestPath(shared, frozenset(missions), guard)


def test_a_named_adapter_answers_whatever_else_is_active(shared: SharedEngine) -> None:
    """The client's choice comes before the router's plan."""
    alone, planned = path(shared, "sep"), path(shared, "router")

    (first,), (second,) = alone.replies([NAMED]), planned.replies([NAMED])
    assert first == second
    assert first.source == "adapter"
    assert [one.source for one in planned.replies([ITEM, NAMED])] == ["plan", "adapter"]


def test_without_a_mission_for_it_the_base_model_answers(shared: SharedEngine) -> None:
    """So it does for an adapter that is not loaded."""
    strange = replace(ITEM, adapter="nobody")

    assert [one.source for one in path(shared).replies([ITEM, strange])] == ["base", "base"]


def test_memory_gives_its_sentences_in_the_passages_place(shared: SharedEngine) -> None:
    """The reader answers, or the plan; a request without a passage, or too long, stays as it is."""
    bare, long = replace(ITEM, passage=""), replace(ITEM, question="Where? " * 60)
    replies = path(shared, "memory").replies([ITEM, bare, long])

    assert [one.source for one in replies] == ["reader", "base", "base"]
    assert replies[1:] == path(shared).replies([bare, long])
    assert path(shared, "router", "memory").replies([ITEM])[0].source == "plan"


def test_the_sidecar_withholds_requests_and_replies(shared: SharedEngine) -> None:
    """A withheld request is not answered; the others are, and are judged once more."""
    secret = replace(ITEM, key="secret", question="What is the secret?")
    guard = WithholdingGuard()
    withheld, passed = path(shared, "safety", guard=guard).replies([secret, ITEM])

    assert (withheld.text, withheld.source) == ("", "withheld")
    assert passed == path(shared).replies([ITEM])[0]
    assert guard.requests == 2
    everything = WithholdingGuard(passed.text[:1])
    everything.filter_requests = WithholdingGuard("\x00").filter_requests  # type: ignore[method-assign]
    assert path(shared, "safety", guard=everything).replies([ITEM])[0].text == ""


def test_safety_needs_the_sidecar(shared: SharedEngine) -> None:
    """An arm that forgot the filters would measure something else."""
    with pytest.raises(ValueError, match="guard"):
        path(shared, "safety")

"""A worker as a system."""

from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem_fleet.evaluation.systems import Decoding, Message
from bem_fleet.evaluation.worker_system import WorkerSystem

from tests.support.oracle_comparison import tiny_worker


def test_base_and_adapter_answer_in_one_worker(tmp_path: Path) -> None:
    """Greedy answers are the same again, differ by adapter, and count their tokens."""
    chats = [(Message("user", f"hello {n}"),) for n in range(6)]
    decoding = Decoding(max_tokens=8)
    with tiny_worker(tmp_path) as worker:
        base, adapter = WorkerSystem(worker), WorkerSystem(worker, "alpha")
        said = {system.name: dict(system.respond(chats, decoding, 0)) for system in (base, adapter)}
        again = dict(base.respond(chats, decoding, 1))
        with pytest.raises(EvaluationError, match="loaded: alpha"):
            WorkerSystem(worker, "beta")

    assert sorted(said["tiny"]) == list(range(6))
    assert said["tiny"] == again
    assert said["tiny"] != said["alpha"]
    assert base.digest != adapter.digest
    assert all(0 < answer.completion_tokens <= 8 for answer in said["tiny"].values())


def test_request_that_the_engine_refuses_is_an_evaluation_error(tmp_path: Path) -> None:
    """A conversation longer than the context is named with the system, not dropped."""
    with tiny_worker(tmp_path) as worker, pytest.raises(EvaluationError, match="no response"):
        list(WorkerSystem(worker).respond([(Message("user", "x" * 600),)], Decoding(), 0))


def test_more_items_than_the_queue_holds_are_answered(tmp_path: Path) -> None:
    """The queue's limit paces an evaluation and never ends it; leaving early frees the rows."""
    chats = [(Message("user", f"hello {n}"),) for n in range(90)]
    with tiny_worker(tmp_path) as worker:
        system = WorkerSystem(worker)
        said = dict(system.respond(chats, Decoding(max_tokens=2), 0))
        early = system.respond(chats, Decoding(max_tokens=2), 0)
        next(early)
        early.close()  # type: ignore[attr-defined]
        again = dict(system.respond(chats[:1], Decoding(max_tokens=2), 0))

    assert sorted(said) == list(range(90))
    assert again[0] == said[0]

"""A worker as a system."""

from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem.evaluation.in_process import WorkerSystem
from bem.evaluation.systems import Decoding, Message

from tests.unit.bem.evaluation.comparisons import tiny_worker


def test_base_and_skill_answer_in_one_worker(tmp_path: Path) -> None:
    """Greedy answers are the same again, differ by skill, and count their tokens."""
    chats = [(Message("user", f"hello {n}"),) for n in range(6)]
    decoding = Decoding(max_tokens=8)
    with tiny_worker(tmp_path) as worker:
        base, skill = WorkerSystem(worker), WorkerSystem(worker, "alpha")
        said = {system.name: dict(system.answer(chats, decoding, 0)) for system in (base, skill)}
        again = dict(base.answer(chats, decoding, 1))
        with pytest.raises(EvaluationError, match="loaded: alpha"):
            WorkerSystem(worker, "beta")

    assert sorted(said["tiny"]) == list(range(6))
    assert said["tiny"] == again
    assert said["tiny"] != said["alpha"]
    assert base.digest != skill.digest
    assert all(0 < answer.completion_tokens <= 8 for answer in said["tiny"].values())


def test_request_that_the_engine_refuses_is_an_evaluation_error(tmp_path: Path) -> None:
    """A conversation longer than the context is named with the system, not dropped."""
    with tiny_worker(tmp_path) as worker, pytest.raises(EvaluationError, match="did not answer"):
        list(WorkerSystem(worker).answer([(Message("user", "x" * 600),)], Decoding(), 0))

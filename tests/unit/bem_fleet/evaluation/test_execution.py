"""Answers are given once and survive their run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem_fleet.evaluation.execution import ResponseCache, collect_responses
from bem_fleet.evaluation.systems import Chat, ComparisonSide, Decoding, Response, SystemRun

from tests.support.oracle_comparison import Oracle, items


class Dying(Oracle):
    """Ends in the middle, as a service that goes away does."""

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Answer seven items."""
        for count, one in enumerate(super().respond(chats, decoding, seed)):
            if count == 7:
                raise EvaluationError("gone")
            yield one


def side(*systems: Oracle) -> ComparisonSide:
    """Make a side of these systems with seeds 0, 1 and so on."""
    return ComparisonSide(
        "s", tuple(SystemRun(system, seed) for seed, system in enumerate(systems)), "strict"
    )


def test_answers_come_back_in_the_order_of_items() -> None:
    """Whatever the order in which a system answers."""
    (given,) = collect_responses(side(Oracle(100)), items(5), Decoding(), ResponseCache())

    assert [one.response.text for one in given][1:] == [f'{{"answer": "{n}"}}' for n in range(1, 5)]
    assert not any(one.cached for one in given)


def test_rerun_asks_only_what_is_missing(tmp_path: Path) -> None:
    """A run whose system died goes on with what it had; a third run asks nothing."""
    path = tmp_path / "answers.jsonl"
    with pytest.raises(EvaluationError, match="gone"):
        collect_responses(side(Dying(3)), items(20), Decoding(), ResponseCache(path))
    second, third = Oracle(3), Oracle(3)
    found = collect_responses(side(second), items(20), Decoding(), ResponseCache(path))
    again = collect_responses(side(third), items(20), Decoding(), ResponseCache(path))

    assert (second.asked, third.asked) == (13, 0)
    assert [one.response for one in again[0]] == [one.response for one in found[0]]
    assert sum(one.cached for one in found[0]) == 7
    assert [one.seconds for one in again[0]] == [one.seconds for one in found[0]]


def test_key_holds_model_prompt_seed_and_decoding(tmp_path: Path) -> None:
    """A change of any of them is another answer; seeds of greedy decoding share theirs."""
    path = tmp_path / "answers.jsonl"
    collect_responses(side(Oracle(3)), items(5), Decoding(), ResponseCache(path))
    asked = []
    for system, decoding, shots in (
        (Oracle(4), Decoding(), ()),
        (Oracle(3), Decoding(max_tokens=9), ()),
        (Oracle(3), Decoding(), (("1", "1"),)),
        (Oracle(3), Decoding(temperature=1.0), ()),
        (Oracle(3), Decoding(), ()),
    ):
        given = ComparisonSide("s", (SystemRun(system, 5),), "strict", shots)
        collect_responses(given, items(5), decoding, ResponseCache(path))
        asked.append(system.asked)

    assert asked == [5, 5, 5, 5, 0]


def test_system_that_repeats_or_leaves_items_is_named() -> None:
    """Answers that do not pair with items never reach a statistic."""

    class Short(Oracle):
        def respond(
            self, chats: Sequence[Chat], decoding: Decoding, seed: int
        ) -> Iterator[tuple[int, Response]]:
            yield from super().respond(chats[:-1], decoding, seed)

    class Twice(Oracle):
        def respond(
            self, chats: Sequence[Chat], decoding: Decoding, seed: int
        ) -> Iterator[tuple[int, Response]]:
            for _ in range(2):
                yield from super().respond(chats, decoding, seed)

    with pytest.raises(EvaluationError, match="1 of 5 items"):
        collect_responses(side(Short(3)), items(5), Decoding(), ResponseCache())
    with pytest.raises(EvaluationError, match="twice"):
        collect_responses(side(Twice(3)), items(5), Decoding(), ResponseCache())

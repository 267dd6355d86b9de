"""Load and measures of the overload benchmark."""

import asyncio
import time
from typing import Any

import pytest

from benchmarks.overload.load import Answer, arrivals, open_loop
from benchmarks.overload.measures import Window, fair_shares, jain_index, measured


def answer(tenant: str, due_s: float, latency_s: float, status: int = 200) -> Answer:
    """A request that was sent when it was due; refusals name a delay."""
    return Answer(tenant, due_s, 0.0, latency_s, status, status == 429)


def test_arrivals_have_the_rates_of_their_tenants() -> None:
    """A Poisson process each, in one order, the same for the same seed."""
    drawn = arrivals({"a": 50.0, "b": 5.0}, seconds=100.0, seed=3)
    counts = [sum(tenant == name for _, tenant in drawn) for name in ("a", "b")]

    assert drawn == sorted(drawn) == arrivals({"a": 50.0, "b": 5.0}, 100.0, 3)
    # Five standard deviations of a Poisson count.
    assert counts[0] == pytest.approx(5000, abs=355)
    assert counts[1] == pytest.approx(500, abs=112)


async def test_the_load_does_not_wait_for_answers() -> None:
    """All requests are sent although none is answered before the last one."""
    sent: list[float] = []
    all_sent = asyncio.Event()

    class Slow:
        async def ask(self, tenant: str, began: float, due_s: float) -> Answer:
            sent.append(time.perf_counter() - began - due_s)
            if len(sent) == 3:
                all_sent.set()
            await all_sent.wait()
            return answer(tenant, due_s, 0.0)

    client: Any = Slow()
    answers = await asyncio.wait_for(open_loop(client, [(0.0, "a"), (0.01, "a"), (0.02, "b")]), 30)

    assert [one.tenant for one in answers] == ["a", "a", "b"]
    assert min(sent) >= 0.0


def test_goodput_counts_useful_answers_within_the_window() -> None:
    """Answers before it, after it, and behind their deadline do not count; refusals neither."""
    answers = [
        *(answer("a", 1.0, 0.5), answer("a", 2.0, 1.0), answer("b", 3.0, 5.0)),
        *(answer("b", 9.0, 2.0), answer("a", 4.0, 0.1, 429), answer("b", 0.0, 60.0, 0)),
    ]
    found = measured(answers, Window(2.0, 10.0), 4.0, ["b"])

    assert found["goodput_per_s"] == round(1 / 8.0, 3)
    assert (found["answered"], found["refused"], found["refused_with_a_delay"]) == (4, 1, 1)
    assert (found["without_an_answer"], found["other_errors"]) == (1, 0)
    assert (found["refusal_ms_p50"], found["light_tenants_answered"]) == (100.0, 0.667)


def test_fair_shares_divide_what_the_modest_leave() -> None:
    """Nobody has more than asked for, and the others have equal parts."""
    assert fair_shares({"a": 2.0, "b": 90.0, "c": 30.0}, 22.0) == {"a": 2.0, "c": 10.0, "b": 10.0}
    assert jain_index([1.0, 1.0]) == 1.0
    assert jain_index([1.0, 0.0, 0.0, 0.0]) == 0.25

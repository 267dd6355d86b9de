"""Scorer child process: batches, failures, hangs and restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bem_fleet.guard.findings import ScoringQuery
from bem_fleet.services.safety.batch_queue import LONG_CHARS
from bem_fleet.services.safety.scorer_process import ScorerProcess
from fleet.errors import OverloadedError, UnavailableError

from tests.support.waiting import eventually


def query(text: str) -> ScoringQuery:
    """Return a query for toxicity."""
    return ScoringQuery(text, "response", frozenset(("toxicity",)))


@asynccontextmanager
async def running(command: tuple[str, ...], timeout_s: float = 60) -> AsyncIterator[ScorerProcess]:
    """Run a scorer process until the block ends."""
    scorer = ScorerProcess("fast", Path("unused"), timeout_s, command=command)
    task = asyncio.create_task(scorer.run())
    try:
        await eventually(lambda: scorer.is_ready, 60)
        yield scorer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_concurrent_queries_get_their_own_findings(stub_command: tuple[str, ...]) -> None:
    """Queries in one batch are answered in their order."""
    async with running(stub_command) as scorer:
        findings = await asyncio.gather(*(scorer.score(query(t)) for t in ("bad", "ok", "bad")))

    assert [finding.scores["toxicity"] for finding in findings] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("text", ["crash", "garbage"])
async def test_failed_scorer_blocks_the_text_and_restarts(
    stub_command: tuple[str, ...], text: str
) -> None:
    """A crash or a malformed response raises UnavailableError; a new child then scores."""
    async with running(stub_command) as scorer:
        first = scorer.pid
        with pytest.raises(UnavailableError, match="fast safety scorer"):
            await scorer.score(query(text))
        await eventually(lambda: scorer.is_ready and scorer.pid != first, 60)
        finding = await scorer.score(query("ok"))

    assert finding.scores == {"toxicity": 0.0}


async def test_hanging_scorer_is_killed(stub_command: tuple[str, ...]) -> None:
    """A batch beyond the time limit ends the child; the next child scores."""
    async with running(stub_command, timeout_s=3) as scorer:
        first = scorer.pid
        with pytest.raises(UnavailableError):
            await scorer.score(query("hang"))
        await eventually(lambda: scorer.is_ready and scorer.pid != first, 60)

        assert (await scorer.score(query("ok"))).scores == {"toxicity": 0.0}


async def test_scorer_that_is_not_running_blocks_the_text() -> None:
    """Without a child there is no finding."""
    with pytest.raises(UnavailableError, match="not running"):
        await ScorerProcess("deep", Path("unused"), 1).score(query("ok"))


async def test_a_queue_of_long_texts_is_no_failure(stub_command: tuple[str, ...]) -> None:
    """Who waits too long is told to retry; the child lives, and short texts have findings."""
    long = [query("slow" + str(number) * LONG_CHARS) for number in range(40)]
    async with running(stub_command, timeout_s=2) as scorer:
        child = scorer.pid
        waiting = [asyncio.create_task(scorer.score(one)) for one in long]
        while not all(one.done() for one in waiting):
            assert (await scorer.score(query("ok"))).scores == {"toxicity": 0.0}
            await asyncio.sleep(0.05)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

        assert scorer.pid == child
    overloaded = [one for one in outcomes if isinstance(one, OverloadedError)]
    assert overloaded
    assert len(overloaded) < len(long)
    assert all("retry" in str(one) for one in overloaded)
    assert not [one for one in outcomes if isinstance(one, UnavailableError)]

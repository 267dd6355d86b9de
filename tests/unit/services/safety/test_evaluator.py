"""Policy evaluator: tier selection, caching and failures, with scorers in memory."""

import asyncio

import pytest
from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import (
    ABUSE,
    DEFAULT_POLICY,
    FAST_SCORERS,
    REQUEST_SCORERS,
    RESPONSE_SCORERS,
    Action,
    load_policy,
)
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from fleet.errors import UnavailableError

POLICY = load_policy(DEFAULT_POLICY)


class RecordingScorer:
    """Scores every text by a constant, and records its queries."""

    def __init__(self, score: float = 0.0) -> None:
        self.queries: list[ScoringQuery] = []
        self.is_ready = True
        self._score = score

    async def score(self, query: ScoringQuery) -> Finding:
        """Return the constant for each scorer of the query."""
        self.queries.append(query)
        return Finding(dict.fromkeys(query.scorers, self._score))

    async def run(self) -> None:
        """Run for ever."""
        await asyncio.Event().wait()


class FailingScorer(RecordingScorer):
    """Has no finding for any text."""

    async def score(self, query: ScoringQuery) -> Finding:
        """Fail as a scorer that is down."""
        raise UnavailableError(f"no finding for {query.side}")


async def test_each_tier_gets_its_own_scorers() -> None:
    """A response with a number needs both tiers, a request the deep one only."""
    fast, deep = RecordingScorer(), RecordingScorer()
    evaluator = PolicyEvaluator(fast, deep, lambda: POLICY)
    await evaluator.evaluate("Call 212-555-0187.", "response", prompt="Who?")
    await evaluator.evaluate("How are you?", "request")

    assert [query.scorers for query in fast.queries] == [FAST_SCORERS | {ABUSE}]
    assert fast.queries[0].prompt == "Who?"
    assert [query.scorers for query in deep.queries] == [
        frozenset(RESPONSE_SCORERS) - FAST_SCORERS - {ABUSE},
        frozenset(REQUEST_SCORERS),
    ]


async def test_prose_skips_the_deep_tier_and_partial_text_has_no_prompt() -> None:
    """The prefilter excludes sensitive data; grounding waits for the complete response."""
    fast, deep = RecordingScorer(), RecordingScorer()
    evaluator = PolicyEvaluator(fast, deep, lambda: POLICY)
    verdict = await evaluator.evaluate("A calm sea.", prompt="What?", complete=False)

    assert deep.queries == []
    assert fast.queries[0].prompt == ""
    assert (verdict.scores["pii"], verdict.scores["secrets"]) == (0.0, 0.0)


class ScreeningScorer(RecordingScorer):
    """Leaves abuse to the other tier, as words that do not rule it out do."""

    async def score(self, query: ScoringQuery) -> Finding:
        """Return the constant for each scorer but abuse."""
        finding = await super().score(query)
        return Finding({n: score for n, score in finding.scores.items() if n != ABUSE})


async def test_abuse_that_words_leave_open_is_scored_by_the_deep_tier() -> None:
    """The verdict waits for it, also of a piece of a stream, and has no prompt of its own."""
    deep = RecordingScorer(1.0)
    evaluator = PolicyEvaluator(ScreeningScorer(), deep, lambda: POLICY)
    verdict = await evaluator.evaluate("You fool.", prompt="Who?", complete=False)

    assert [query.scorers for query in deep.queries] == [frozenset({ABUSE})]
    assert deep.queries[0].prompt == ""
    assert (verdict.scores[ABUSE], verdict.action) == (1.0, Action.FILTER)


async def test_abuse_without_the_deep_tier_is_not_released() -> None:
    """What words leave open has no verdict while the deep tier is down."""
    evaluator = PolicyEvaluator(ScreeningScorer(), FailingScorer(), lambda: POLICY)
    with pytest.raises(UnavailableError):
        await evaluator.evaluate("You fool.")


async def test_deep_findings_are_cached_by_content() -> None:
    """The same request is scored once; another text is scored anew."""
    deep = RecordingScorer()
    evaluator = PolicyEvaluator(RecordingScorer(), deep, lambda: POLICY)
    for text in ("one", "one", "two"):
        await evaluator.evaluate(text, "request")

    assert [query.text for query in deep.queries] == ["one", "two"]


async def test_violation_gives_the_action_of_its_rule() -> None:
    """A score above the threshold of a blocking rule blocks the request."""
    evaluator = PolicyEvaluator(RecordingScorer(), RecordingScorer(1.0), lambda: POLICY)

    assert (await evaluator.evaluate("text", "request")).action == Action.BLOCK


async def test_missing_finding_fails_closed() -> None:
    """Without a finding there is no verdict, and a tier that is down makes it not ready."""
    fast = FailingScorer()
    evaluator = PolicyEvaluator(fast, RecordingScorer(), lambda: POLICY)
    with pytest.raises(UnavailableError):
        await evaluator.evaluate("text")
    fast.is_ready = False

    assert not evaluator.is_ready

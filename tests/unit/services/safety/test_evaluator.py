"""Policy evaluator: tier selection, caching and failures, with scorers in memory."""

import asyncio

import pytest
from bem_fleet.guard.findings import Finding, ScoringQuery, Span
from bem_fleet.guard.policy import (
    ABUSE,
    DEFAULT_POLICY,
    FAST_SCORERS,
    LANGUAGE,
    REQUEST_SCORERS,
    RESPONSE_SCORERS,
    Action,
    load_policy,
)
from bem_fleet.guard.spans import merge_spans
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.text_windows import WINDOW_CHARS
from fleet.errors import UnavailableError

POLICY = load_policy(DEFAULT_POLICY)


class RecordingScorer:
    """Scores every text by a constant, and records its queries."""

    def __init__(self, score: float = 0.0) -> None:
        self.queries: list[ScoringQuery] = []
        self.is_ready = True
        self._score = score

    async def score(self, query: ScoringQuery, client: str = "") -> Finding:  # noqa: ARG002
        """Return the constant for each scorer of the query."""
        self.queries.append(query)
        return Finding(dict.fromkeys(query.scorers, self._score))

    async def run(self) -> None:
        """Run for ever."""
        await asyncio.Event().wait()


class FailingScorer(RecordingScorer):
    """Has no finding for any text."""

    async def score(self, query: ScoringQuery, client: str = "") -> Finding:  # noqa: ARG002
        """Fail as a scorer that is down."""
        raise UnavailableError(f"no finding for {query.side}")


async def test_each_tier_gets_its_own_scorers() -> None:
    """A response with a number needs both tiers; the fast one tells a request's language only."""
    fast, deep = RecordingScorer(), RecordingScorer()
    evaluator = PolicyEvaluator(fast, deep, lambda: POLICY)
    await evaluator.evaluate("Call 212-555-0187.", "response", prompt="Who?")
    await evaluator.evaluate("How are you?", "request")

    assert [query.scorers for query in fast.queries] == [FAST_SCORERS | {ABUSE}, {LANGUAGE}]
    assert fast.queries[0].prompt == "Who?"
    assert [query.scorers for query in deep.queries] == [
        frozenset(RESPONSE_SCORERS) - FAST_SCORERS - {ABUSE},
        frozenset(REQUEST_SCORERS) - {LANGUAGE},
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

    async def score(self, query: ScoringQuery, client: str = "") -> Finding:  # noqa: ARG002
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


class FindingScorer(RecordingScorer):
    """Reports each ``@`` of a text as a span, and as many toxic texts as say "bad"."""

    async def score(self, query: ScoringQuery, client: str = "") -> Finding:  # noqa: ARG002
        """Return the spans with offsets in the text of the query."""
        self.queries.append(query)
        await asyncio.sleep(0)
        spans = tuple(
            Span(at, at + 1, "AT", 1.0, "pii") for at, one in enumerate(query.text) if one == "@"
        )
        toxicity = 1.0 if "bad" in query.text else 0.0
        scores = {"pii": float(bool(spans)), "toxicity": toxicity}
        return Finding({name: scores.get(name, 0.0) for name in query.scorers}, spans)


async def test_long_texts_are_scored_in_windows() -> None:
    """No scorer gets more than a window at once; offsets and scores are those of the whole text."""
    fast, deep = FindingScorer(), FindingScorer()
    evaluator = PolicyEvaluator(fast, deep, lambda: POLICY)
    text = "212-555-0142 " * 8000 + "one@two bad " + "212-555-0142 " * 2000 + "three@four"
    finding = await evaluator.score(ScoringQuery(text, "response", frozenset(RESPONSE_SCORERS)))
    local = {"pii", "toxicity", "counterfactual"}
    windowed = [one for one in (*fast.queries, *deep.queries) if one.scorers & local]

    assert max(len(one.text) for one in windowed) <= WINDOW_CHARS
    assert sorted({text[span.start : span.end] for span in finding.spans}) == ["@"]
    assert [span.start for span in merge_spans(finding.spans)] == [
        at for at, one in enumerate(text) if one == "@"
    ]
    assert (finding.scores["toxicity"], finding.scores["pii"]) == (1.0, 1.0)


async def test_windows_of_one_text_are_scored_in_turn() -> None:
    """A caller has one window in the queue of a tier, however long its text is."""
    deep = FindingScorer()
    open_queries = most = 0

    async def count(query: ScoringQuery, client: str = "") -> Finding:
        nonlocal open_queries, most
        open_queries += 1
        most = max(most, open_queries)
        finding = await FindingScorer.score(deep, query, client)
        open_queries -= 1
        return finding

    deep.score = count  # type: ignore[method-assign]
    evaluator = PolicyEvaluator(RecordingScorer(), deep, lambda: POLICY)
    text = " ".join(f"a{number}@b" for number in range(8000))
    await evaluator.score(ScoringQuery(text, "response", frozenset({"pii"})))

    assert len(deep.queries) > 10
    assert most == 1


class WordScorer(RecordingScorer):
    """Gives 1.0 to texts with all of its words."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self._words = words

    async def score(self, query: ScoringQuery, client: str = "") -> Finding:  # noqa: ARG002
        """Return the same score for each scorer."""
        self.queries.append(query)
        found = all(word in query.text.split() for word in self._words)
        return Finding(dict.fromkeys(query.scorers, float(found)))


@pytest.mark.parametrize(
    ("prompt", "answer", "allowed"),
    [
        ("one two bad ", "day for all", True),
        ("one bad day and ", "all is well", True),
        ("one bad ", "and one day", False),
        ("all is well ", "bad day", False),
    ],
)
async def test_words_of_a_prompt_count_only_with_those_of_the_answer(
    prompt: str, answer: str, allowed: bool
) -> None:
    """The client's own words are no violation of the answer that continues them."""
    words = ("bad", "day") if prompt != "one two bad " else ("bad",)
    evaluator = PolicyEvaluator(WordScorer(*words), RecordingScorer(), lambda: POLICY)
    text = prompt + answer
    verdict = await evaluator.evaluate(text, complete=False, preceding=len(prompt))

    assert verdict.allowed == allowed

"""Policy evaluator: runs the scorers that the safety policy requires and returns its verdict."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from bem_fleet.guard.findings import Finding, ScoringQuery, Span
from bem_fleet.guard.policy import (
    ABUSE,
    FAST_SCORERS,
    SPAN_SCORERS,
    Action,
    SafetyPolicy,
    SafetyVerdict,
)
from bem_fleet.guard.scoring.prefilter import may_contain_sensitive_data
from bem_fleet.guard.spans import merge_spans
from bem_fleet.services.safety.text_windows import WINDOW_CHARS, split_text
from fleet.access.principal import principal
from fleet.tracing import span
from prometheus_client import Counter

_MAX_CACHED = 2048
# Scorers whose score of a text is the highest of its phrases. The others compare a whole response
# with its request (grounding, helpfulness: at most 4,000 words), choose the windows of a text that
# they embed (the heads), or report spans of any length in linear time (secrets).
_LOCAL_SCORERS = frozenset(("pii", "toxicity", "counterfactual"))
# Scorers that compare a response with its request, and the words before an answer that can share
# a window of the others with it.
_PROMPT_SCORERS = frozenset({"grounding", "helpfulness"})
_BORDER_WORDS, _BORDER_CHARS = 7, 200

VERDICTS = Counter(
    "bem_safety_verdicts_total", "Texts evaluated.", ["side", "constraint", "action"]
)
CACHED = Counter("bem_safety_cached_findings_total", "Findings served from the cache by content.")


class Scorer(Protocol):
    """Scorers of one tier: a ``ScorerProcess`` or a ``ScorerClient``."""

    @property
    def is_ready(self) -> bool:
        """Whether texts can be scored."""

    async def score(self, query: ScoringQuery, client: str) -> Finding:
        """Return the finding of one text; UnavailableError if there is none.

        Args:
            query: The query.
            client: Name of the client whose text it is, for fairness between clients.
        """

    async def run(self) -> None:
        """Keep the scorer available; ends when cancelled."""


class PolicyEvaluator:
    """Evaluates texts under the safety policy in force.

    Args:
        fast: Scorer of the fast tier.
        deep: Scorer of the deep tier.
        policy: Returns the policy in force.
    """

    def __init__(self, fast: Scorer, deep: Scorer, policy: Callable[[], SafetyPolicy]) -> None:
        self.fast = fast
        self.deep = deep
        self._policy = policy
        self._cache: OrderedDict[bytes, Finding] = OrderedDict()

    @property
    def is_ready(self) -> bool:
        """Whether both tiers can score."""
        return self.fast.is_ready and self.deep.is_ready

    async def run(self) -> None:
        """Keep both tiers available; ends when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fast.run())
            group.create_task(self.deep.run())

    async def evaluate(
        self,
        text: str,
        side: str = "response",
        *,
        prompt: str = "",
        complete: bool = True,
        ended: bool = True,
        preceding: int = 0,
    ) -> SafetyVerdict:
        """Return the verdict on a text.

        Args:
            text: The text.
            side: ``request`` or ``response``.
            prompt: Request that a response answers; empty for none.
            complete: Whether the text is complete; scorers that need the prompt wait for that.
            ended: Whether nothing follows the text.
            preceding: Characters at the start that the text continues. They are judged only
                together with what follows them: a finding within them is the client's own.

        Raises:
            UnavailableError: A scorer returned no finding; the text must not pass.
        """
        policy = self._policy()
        scorers = policy.required_scorers[side]
        query = ScoringQuery(text, side, scorers, prompt if complete else "", complete, ended)
        with span(f"safety.evaluate_{side}", {"bem.safety.characters": len(text)}) as one:
            finding = await (
                self._score_continuation(query, preceding, policy)
                if preceding
                else self.score(query)
            )
            verdict = policy.evaluate(side, finding)
            worst = verdict.worst_violation
            constraint = worst.rule.constraint if worst else ""
            one.set("bem.safety.action", verdict.action.name.lower())
            one.set("bem.safety.constraint", constraint)
        VERDICTS.labels(side, constraint, verdict.action.name.lower()).inc()
        return verdict

    async def find_spans(self, text: str) -> list[Span] | None:
        """Return the spans of a text of a response that are redacted; None if it is withheld.

        Raises:
            UnavailableError: A scorer returned no finding.
        """
        policy = self._policy()
        scorers = policy.required_scorers["response"] & frozenset(SPAN_SCORERS)
        query = ScoringQuery(text, "response", scorers, complete=False)
        verdict = policy.evaluate("response", await self.score(query))
        if not verdict.allowed:
            return None
        return merge_spans(verdict.spans) if verdict.action == Action.REDACT else []

    async def _score_continuation(
        self, query: ScoringQuery, preceding: int, policy: SafetyPolicy
    ) -> Finding:
        """Return the finding of a text of which the first ``preceding`` characters are given.

        Spans count if they reach into the rest. Word scores are those of the rest, or of the rest
        behind the last words before it, unless these words violate the policy by themselves.
        """
        before, answer = query.text[:preceding], query.text[preceding:]
        span_scorers = query.scorers & frozenset(SPAN_SCORERS)
        word_scorers = query.scorers - span_scorers
        own = self.score(replace(query, text=answer, scorers=word_scorers))
        joined = self.score(replace(query, scorers=span_scorers))
        words = before[-_BORDER_CHARS:].split(" ")[-_BORDER_WORDS:]
        last_words = " ".join(words)
        border = replace(query, prompt="", complete=False, scorers=word_scorers - _PROMPT_SCORERS)
        ahead = answer[:_BORDER_CHARS]
        with_answer = self.score(replace(border, text=last_words + ahead))
        alone = self.score(replace(border, text=last_words))
        results = await asyncio.gather(own, joined, with_answer, alone)
        scores = dict(results[0].scores)
        for name, score in results[2].scores.items():
            limits = [r.threshold for r in policy.rules if (r.scorer, r.side) == (name, query.side)]
            if results[3].scores.get(name, 0.0) < min(limits, default=0.0):
                scores[name] = max(scores.get(name, 0.0), score)
        spans = tuple(span for span in results[1].spans if span.end > preceding)
        for name in results[1].scores:
            reached = [span.score for span in spans if span.scorer == name]
            scores[name] = max(reached, default=0.0)
        return Finding(scores, spans)

    async def score(self, query: ScoringQuery) -> Finding:
        """Return the finding of the requested scorers.

        Scorers that judge each phrase by itself get a long text in windows, one after the other, so
        that the texts of other callers have their turn in between.

        Raises:
            OverloadedError: Too many texts wait for a scorer.
            UnavailableError: A scorer returned no finding.
        """
        local = query.scorers & _LOCAL_SCORERS if len(query.text) > WINDOW_CHARS else frozenset()
        pending = []
        if whole := query.scorers - local:
            pending.append(self._score_text(replace(query, scorers=whole)))
        if local:
            pending.append(self._score_windows(replace(query, scorers=local, prompt="")))
        finding = Finding()
        for other in await asyncio.gather(*pending):
            finding = finding.merge(other)
        return finding

    async def _score_windows(self, query: ScoringQuery) -> Finding:
        """Return the union of the findings of all windows."""
        finding = Finding()
        for offset, window in split_text(query.text):
            part = await self._score_text(replace(query, text=window))
            spans = tuple(
                replace(span, start=span.start + offset, end=span.end + offset)
                for span in part.spans
            )
            finding = finding.merge(replace(part, spans=spans))
        # What lies in the overlap of two windows is found twice.
        return replace(finding, spans=tuple(dict.fromkeys(finding.spans)))

    async def _score_text(self, query: ScoringQuery) -> Finding:
        """Return the finding of both tiers on one text.

        The deep tier is skipped where the prefilter rules sensitive data out, and for texts that
        it has scored before.
        """
        pending = []
        abuse = query.scorers & {ABUSE}
        if fast := query.scorers & FAST_SCORERS | abuse:
            pending.append(self._score_fast(replace(query, scorers=fast)))
        deep = query.scorers - FAST_SCORERS - abuse
        finding = Finding()
        span_scorers = deep & frozenset(SPAN_SCORERS)
        if span_scorers and not may_contain_sensitive_data(query.text):
            finding = Finding(dict.fromkeys(span_scorers, 0.0))
            deep -= span_scorers
        if deep:
            pending.append(self._score_deep(replace(query, scorers=deep)))
        for other in await asyncio.gather(*pending):
            finding = finding.merge(other)
        return finding

    async def _score_fast(self, query: ScoringQuery) -> Finding:
        """Return the fast tier's finding, with the deep tier's score of what it left open."""
        finding = await self.fast.score(query, principal.get().name)
        if ABUSE in query.scorers - finding.scores.keys():
            deep = replace(query, scorers=frozenset({ABUSE}), prompt="")
            finding = finding.merge(await self._score_deep(deep))
        return finding

    async def _score_deep(self, query: ScoringQuery) -> Finding:
        """Return the deep tier's finding, from the cache if the same text was scored before."""
        scorers = ",".join(sorted(query.scorers))
        name = f"{query.side}\0{scorers}\0{query.ended}\0{query.text}"
        key = hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).digest()
        if cached := self._cache.get(key):
            self._cache.move_to_end(key)
            CACHED.inc()
            return cached
        finding = await self.deep.score(query, principal.get().name)
        self._cache[key] = finding
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return finding

"""Policy evaluator: runs the scorers that the safety policy requires and returns its verdict."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import FAST_SCORERS, SPAN_SCORERS, SafetyPolicy, SafetyVerdict
from bem_fleet.guard.scoring.prefilter import may_contain_sensitive_data
from bem_fleet.services.safety.text_windows import WINDOW_CHARS, split_text
from prometheus_client import Counter

_MAX_CACHED = 2048
# The score of a text is the highest of its phrases. The others compare a whole response with its
# request (grounding, helpfulness: at most 4,000 words), or choose the windows of a request that
# they embed (the heads).
_LOCAL_SCORERS = frozenset((*SPAN_SCORERS, "toxicity", "counterfactual"))

VERDICTS = Counter(
    "bem_safety_verdicts_total", "Texts evaluated.", ["side", "constraint", "action"]
)
CACHED = Counter("bem_safety_cached_findings_total", "Findings served from the cache by content.")


class Scorer(Protocol):
    """Scorers of one tier: a ``ScorerProcess`` or a ``ScorerClient``."""

    @property
    def is_ready(self) -> bool:
        """Whether texts can be scored."""

    async def score(self, query: ScoringQuery) -> Finding:
        """Return the finding of one text; UnavailableError if there is none."""

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
        self, text: str, side: str = "response", *, prompt: str = "", complete: bool = True
    ) -> SafetyVerdict:
        """Return the verdict on a text.

        Args:
            text: The text.
            side: ``request`` or ``response``.
            prompt: Request that a response answers; empty for none.
            complete: Whether the text is complete; scorers that need the prompt wait for that.

        Raises:
            UnavailableError: A scorer returned no finding; the text must not pass.
        """
        policy = self._policy()
        scorers = policy.required_scorers[side]
        query = ScoringQuery(text, side, scorers, prompt if complete else "", complete)
        verdict = policy.evaluate(side, await self.score(query))
        worst = verdict.worst_violation
        constraint = worst.rule.constraint if worst else ""
        VERDICTS.labels(side, constraint, verdict.action.name.lower()).inc()
        return verdict

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
        if fast := query.scorers & FAST_SCORERS:
            pending.append(self.fast.score(replace(query, scorers=fast)))
        deep = query.scorers - FAST_SCORERS
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

    async def _score_deep(self, query: ScoringQuery) -> Finding:
        """Return the deep tier's finding, from the cache if the same text was scored before."""
        name = f"{query.side}\0{','.join(sorted(query.scorers))}\0{query.text}"
        key = hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).digest()
        if cached := self._cache.get(key):
            self._cache.move_to_end(key)
            CACHED.inc()
            return cached
        finding = await self.deep.score(query)
        self._cache[key] = finding
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return finding

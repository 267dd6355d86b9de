"""Verdicts: the scorers that the policy asks for, and what it makes of their findings."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import SafetyPolicy, SafetyVerdict
from bem_fleet.guard.scoring.prefilter import may_contain_sensitive_data
from bem_fleet.services.safety.scorer_process import ScorerProcess
from prometheus_client import Counter

_FAST = frozenset(("toxicity", "counterfactual", "grounding", "helpfulness"))
_POINTING = frozenset(("pii", "secrets"))
_KEPT = 2048

VERDICTS = Counter("bem_safety_verdicts_total", "Texts judged.", ["on", "constraint", "action"])
CACHED = Counter("bem_safety_cached_findings_total", "Findings that were known by content.")


class PolicyEvaluator:
    """Judges texts under the policy in force.

    Args:
        folder: The heads' artifact.
        timeout_s: Longest wait for the fast scorer.
        deep_timeout_s: Longest wait for the deep one.
        policy: Returns what is in force.
    """

    def __init__(
        self,
        folder: Path,
        timeout_s: float,
        deep_timeout_s: float,
        policy: Callable[[], SafetyPolicy],
    ) -> None:
        self.fast = ScorerProcess("fast", folder, timeout_s)
        self.deep = ScorerProcess("deep", folder, deep_timeout_s)
        self._policy = policy
        self._known: OrderedDict[bytes, Finding] = OrderedDict()

    @property
    def alive(self) -> bool:
        """Whether both scorers can answer."""
        return self.fast.alive and self.deep.alive

    async def run(self) -> None:
        """Keep both scorers running; ends when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fast.run())
            group.create_task(self.deep.run())

    async def check(
        self, text: str, on: str = "response", *, asked: str = "", whole: bool = True
    ) -> SafetyVerdict:
        """Return the verdict on a text.

        Args:
            text: What is judged.
            on: ``request`` or ``response``.
            asked: The request that a response answers.
            whole: Whether all of it is there; scorers that need all of it wait for that.

        Raises:
            UnavailableError: A scorer gave no finding; the text must not pass.
        """
        policy = self._policy()
        query = ScoringQuery(text, on, policy.wanted[on], asked if whole else "", whole)
        verdict = policy.judge(on, await self.read(query))
        worst = verdict.worst
        VERDICTS.labels(
            on, worst.rule.constraint if worst else "", verdict.action.name.lower()
        ).inc()
        return verdict

    async def read(self, query: ScoringQuery) -> Finding:
        """Return what the wanted scorers read; only those that the text can concern are run.

        Raises:
            UnavailableError: A scorer gave no finding.
        """
        parts = []
        wanted = query.wanted
        if fast := wanted & _FAST:
            parts.append(self.fast.read(_asking(query, fast)))
        slow = wanted - _FAST
        finding = Finding()
        if slow & _POINTING and not may_contain_sensitive_data(query.text):
            finding = Finding(dict.fromkeys(slow & _POINTING, 0.0))
            slow -= _POINTING
        if slow:
            parts.append(self._read_deep(_asking(query, slow)))
        for other in await asyncio.gather(*parts):
            finding = finding.joined(other)
        return finding

    async def _read_deep(self, query: ScoringQuery) -> Finding:
        """Ask the deep scorer, unless it has read the same text before."""
        name = f"{query.on}\0{','.join(sorted(query.wanted))}\0{query.text}"
        key = hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).digest()
        if known := self._known.get(key):
            self._known.move_to_end(key)
            CACHED.inc()
            return known
        found = await self.deep.read(query)
        self._known[key] = found
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found


def _asking(query: ScoringQuery, wanted: frozenset[str]) -> ScoringQuery:
    return ScoringQuery(query.text, query.on, wanted, query.asked, query.whole)

"""Offline guard: both scorer tiers and the safety policy in one process, without a server.

Example::

    guard = OfflineGuard(Path("adapters/guard"), load_policy(DEFAULT_POLICY))
    guard.filter_response("Write to jane.doe@example.com").text  # "Write to [EMAIL_ADDRESS]"
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import (
    ABUSE,
    DEEP_SCORERS,
    FAST_SCORERS,
    SPAN_SCORERS,
    SafetyPolicy,
    SafetyVerdict,
)
from bem_fleet.guard.scoring.heads import CARD
from bem_fleet.guard.scoring.prefilter import may_contain_sensitive_data
from bem_fleet.guard.scoring.tiers import DeepTier, Embedder, FastTier, Tier
from bem_fleet.guard.spans import merge_spans, redact

_BATCH = 32


@dataclass(frozen=True)
class Outcome:
    """Result of filtering a text or an exchange.

    Attributes:
        text: Filtered text; empty if it was withheld.
        verdicts: Verdicts on the request and on the response, as far as they were evaluated.
    """

    text: str
    verdicts: tuple[SafetyVerdict, ...]

    @property
    def triggered_scorer(self) -> str:
        """Scorer for which text was withheld or redacted; empty if the text is unchanged."""
        for verdict in self.verdicts:
            if verdict.worst_violation and (not verdict.allowed or verdict.spans):
                return verdict.worst_violation.rule.scorer
        return ""


class OfflineGuard:
    """Filters requests and responses as the safety sidecar does.

    Args:
        folder: Folder of the heads' artifact; its thresholds replace those of the policy.
        policy: Safety policy.
        model: Embedding model of English texts; None loads the packaged one.
        multilingual: Embedding model of all languages; None loads the packaged one.

    Attributes:
        policy: Policy with the thresholds of the artifact.
        digest: SHA-256 of the heads' weights, hexadecimal.
    """

    def __init__(
        self,
        folder: Path,
        policy: SafetyPolicy,
        model: Embedder | None = None,
        multilingual: Embedder | None = None,
    ) -> None:
        self._tiers: tuple[tuple[Tier, frozenset[str]], ...] = (
            (FastTier(folder), FAST_SCORERS | {ABUSE}),
            (DeepTier(folder, model, multilingual), DEEP_SCORERS),
        )
        card = json.loads((folder / CARD).read_text())
        thresholds, self.digest = card["thresholds"], card["weights_sha256"]
        rules = tuple(
            replace(rule, threshold=thresholds.get(rule.scorer, rule.threshold))
            for rule in policy.rules
        )
        self.policy = replace(policy, rules=rules)

    def filter_request(self, prompt: str) -> Outcome:
        """Return the prompt if the policy lets it reach the mission."""
        query = ScoringQuery(prompt, "request", self.policy.required_scorers["request"])
        verdict = self._evaluate(query)
        return Outcome(prompt if verdict.allowed else "", (verdict,))

    def filter_requests(self, prompts: Sequence[str]) -> list[Outcome]:
        """Return the outcome of each prompt; batches are embedded together."""
        scorers = self.policy.required_scorers["request"]
        outcomes: list[Outcome] = []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            findings = [Finding()] * len(batch)
            for tier, own in self._tiers:
                queries = [ScoringQuery(prompt, "request", scorers & own) for prompt in batch]
                found = zip(findings, tier.score(queries), strict=True)
                findings = [before.merge(finding) for before, finding in found]
            for prompt, finding in zip(batch, findings, strict=True):
                verdict = self.policy.evaluate("request", finding)
                outcomes.append(Outcome(prompt if verdict.allowed else "", (verdict,)))
        return outcomes

    def filter_response(self, response: str, prompt: str = "") -> Outcome:
        """Return the response as the policy lets it reach the client.

        Args:
            response: Complete response.
            prompt: Request that it answers; it may carry evidence. Empty for none.
        """
        scorers = self.policy.required_scorers["response"]
        if not may_contain_sensitive_data(response):
            scorers -= frozenset(SPAN_SCORERS)
        verdict = self._evaluate(ScoringQuery(response, "response", scorers, prompt))
        text = redact(response, merge_spans(verdict.spans)) if verdict.allowed else ""
        return Outcome(text, (verdict,))

    def filter_exchange(self, prompt: str, response: str) -> Outcome:
        """Return what the client gets of a response to a prompt."""
        request = self.filter_request(prompt)
        if not request.text:
            return request
        outcome = self.filter_response(response, prompt)
        return Outcome(outcome.text, (*request.verdicts, *outcome.verdicts))

    def _evaluate(self, query: ScoringQuery) -> SafetyVerdict:
        finding = Finding()
        for tier, own in self._tiers:
            if scorers := (query.scorers & own) - finding.scores.keys():
                finding = finding.merge(tier.score([replace(query, scorers=scorers)])[0])
        return self.policy.evaluate(query.side, finding)

"""Canary explanation: verdict, evidence and terms in words, with the delays until harm is found.

``fleetctl canary explain`` and ``kubectl bem gate explain`` print the same text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bemfleet.fleet.v1 import fleet_pb2 as pb

# What each term means, in the order of the table.
_MEANINGS = {
    "errorMargin": "failed, empty, or truncated where stable is not: at most this share more",
    "violationMargin": "withheld answers: at most this share of requests more",
    "latencyMargin": "latency: on average at most this factor",
    "tailRatio": "slow: a request beyond this factor on stable's p95 or p99",
    "p95Margin": "slow by p95: at most this share of requests more",
    "p99Margin": "slow by p99: at most this share of requests more",
    "minAnswered": "answered: more than this share of the canary's requests",
    "qualityMargin": "score on the probes: at most this much less",
    "errorLimit": "tripwire: errors within 100 requests, if stable is shown to have fewer",
    "violationLimit": "tripwire: withheld answers within 100 requests, likewise",
    "alpha": "probability of a false rollback, and of a false promotion, over all looks",
    "maxPairs": "pairs after which an undecided canary is inconclusive",
}


@dataclass(frozen=True)
class MetricRow:
    """Evidence on one metric.

    Attributes:
        metric: Name of the metric.
        gain: Mean gain of the canary; None before the first pair.
        shown: Always-valid p-value against what promotion requires.
        worse: Always-valid p-value against a tolerable loss.
        pairs: Number of pairs that are evidence.
        correlation: Number of pairs in a row that carry the information of one.
    """

    metric: str
    gain: float | None
    shown: float
    worse: float
    pairs: int
    correlation: float


@dataclass(frozen=True)
class Explanation:
    """What the analysis of a canary has shown, and under which terms.

    Attributes:
        mission: Name of the mission.
        verdict: Latest verdict; empty before the first analysis.
        pairs: Number of request pairs analyzed.
        reasons: Reasons for the verdict, or what is still open.
        evidence: Evidence by metric.
        terms: Terms of the analysis by key of ``spec.canary.analysis``; empty if unknown.
    """

    mission: str
    verdict: str
    pairs: int
    reasons: Sequence[str]
    evidence: Sequence[MetricRow]
    terms: Mapping[str, Any]


def explanation_from_message(mission: pb.Mission) -> Explanation:
    """Return the explanation of a mission as the orchestrator reports it."""
    canary = mission.canary
    return Explanation(
        mission.name,
        canary.verdict,
        canary.pairs,
        _reasons(canary.verdict_reasons),
        [
            MetricRow(
                one.metric,
                one.gain if one.HasField("gain") else None,
                one.p_shown,
                one.p_worse,
                one.pairs,
                one.correlation_time,
            )
            for one in canary.evidence
        ],
        dict(canary.analysis),
    )


def explanation_from_resource(mission: Mapping[str, Any]) -> Explanation:
    """Return the explanation of a ``Mission`` resource."""
    gate = ((mission.get("status") or {}).get("canary") or {}).get("gate") or {}
    canary = (mission.get("spec") or {}).get("canary") or {}
    return Explanation(
        mission["metadata"]["name"],
        gate.get("verdict", ""),
        gate.get("pairs", 0),
        _reasons(gate.get("reasons", "")),
        [_row_from_status(one) for one in gate.get("evidence") or ()],
        canary.get("analysis") or {},
    )


def _row_from_status(entry: Mapping[str, Any]) -> MetricRow:
    """Return one metric's evidence from a Mission's status, which leaves out an unknown gain."""
    known = {one.name: entry[one.name] for one in fields(MetricRow) if one.name in entry}
    return MetricRow(**{"gain": None, **known})


def format_explanation(explanation: Explanation) -> str:
    """Return the explanation as text: verdict, evidence, terms and delays."""
    parts = [_format_verdict(explanation)]
    if explanation.evidence:
        parts.append(_format_evidence(explanation.evidence))
    if explanation.terms:
        parts += [_format_terms(explanation.terms), _format_delays(explanation.terms)]
    return "\n\n".join(part for part in parts if part)


def _reasons(text: str) -> list[str]:
    return [reason for reason in text.split("; ") if reason]


def _format_verdict(explanation: Explanation) -> str:
    if not explanation.verdict:
        return f"{explanation.mission}: no analysis yet"
    head = f"{explanation.mission}: verdict {explanation.verdict} after {explanation.pairs} pairs"
    return "\n".join([head, *(f"  {reason}" for reason in explanation.reasons)])


def _format_evidence(rows: Sequence[MetricRow]) -> str:
    """Return the evidence as a table; the p-values are always valid, before alpha is divided."""
    table = [("metric", "gain", "p shown", "p worse", "pairs", "effective", "correlation")]
    for row in rows:
        effective = row.pairs / max(1.0, row.correlation)
        table.append(
            (
                row.metric,
                "-" if row.gain is None else f"{row.gain:+.4f}",
                f"{row.shown:.3g}",
                f"{row.worse:.3g}",
                str(row.pairs),
                f"{effective:.0f}",
                f"{row.correlation:.1f}",
            )
        )
    return _aligned(table)


def _format_terms(terms: Mapping[str, Any]) -> str:
    table = [("term", "value", "meaning")]
    table += [(key, f"{terms[key]:g}", text) for key, text in _MEANINGS.items() if key in terms]
    return _aligned(table)


def _format_delays(terms: Mapping[str, Any]) -> str:
    """Return the simulated delays; nothing where terms are missing, such as in an old resource."""
    from bem_fleet.stats import canary_delays, canary_terms  # noqa: PLC0415 - loads numpy

    names = {_camel_case(one.name): one.name for one in fields(canary_terms.AnalysisTerms)}
    if not names.keys() <= terms.keys():
        return ""
    whole = ("max_pairs", "error_limit", "violation_limit")
    values = {name: int(terms[key]) if name in whole else terms[key] for key, name in names.items()}
    table = [("a canary that", "ends as", "canaries", "median pairs", "90 % within")]
    for delay in canary_delays.detection_delays(canary_terms.AnalysisTerms(**values)):
        is_open = delay.verdict.value == "continue"
        table.append(
            (
                delay.behaviour,
                "undecided" if is_open else delay.verdict.value,
                f"{delay.share:.0%}",
                str(delay.median),
                str(delay.late),
            )
        )
    note = "simulated with mirrored requests, without probes; correlated pairs take longer"
    return f"{_aligned(table)}\n({note})"


def _camel_case(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.title() for word in tail)


def _aligned(table: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )

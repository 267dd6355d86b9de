"""Measures of one load: goodput, refusals and fairness."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engine.measurement import percentile
from benchmarks.overload.load import Answer


@dataclass(frozen=True)
class Window:
    """Part of a load that is measured: neither the filling of the queue nor its emptying counts.

    Attributes:
        begin_s: Time from the start of the load to its begin, in seconds.
        end_s: Time from the start of the load to its end, in seconds.
    """

    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.end_s - self.begin_s


def completed(answers: Sequence[Answer], window: Window, deadline_s: float) -> Counter[str]:
    """Return how many answers each tenant got within the window and their deadline."""
    return Counter(
        one.tenant
        for one in answers
        if one.status == 200
        and one.latency_s <= deadline_s
        and window.begin_s <= one.due_s + one.latency_s < window.end_s
    )


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return a quantile in milliseconds of values in seconds; None without values."""
    return round(1000 * percentile(values, share), 1) if values else None


def fair_shares(offered: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Return the max-min fair shares: nobody gets more than offered, the rest is divided evenly.

    Args:
        offered: Requests of each tenant.
        capacity: Requests that were answered in all.
    """
    shares, left = dict[str, float](), capacity
    for tenant in sorted(offered, key=offered.__getitem__):
        shares[tenant] = min(offered[tenant], left / (len(offered) - len(shares)))
        left -= shares[tenant]
    return shares


def jain_index(values: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all values are equal, 1 / n if one has everything."""
    squares = sum(one * one for one in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def measured(
    answers: Sequence[Answer], window: Window, deadline_s: float, light: Sequence[str]
) -> dict[str, Any]:
    """Return the measures of one load; times in milliseconds.

    Args:
        answers: All requests of the load.
        window: Part of it in which answers count for the goodput.
        deadline_s: Latest useful answer, in seconds.
        light: Tenants that send less than the others.
    """
    good, refused = completed(answers, window, deadline_s), [a for a in answers if a.status == 429]
    statuses, offered = Counter(one.status for one in answers), Counter(a.tenant for a in answers)
    served = Counter(one.tenant for one in answers if one.status == 200)
    shares = fair_shares(offered, served.total())
    refusal_s = [one.latency_s for one in refused]
    times_s = [one.latency_s for one in answers if one.status == 200]
    return {
        "requests": len(answers),
        "goodput_per_s": round(good.total() / window.seconds, 3),
        "answered": statuses[200],
        "refused": len(refused),
        "refused_with_a_delay": sum(one.has_delay for one in refused),
        "without_an_answer": statuses[0],
        "other_errors": len(answers) - statuses[200] - statuses[0] - len(refused),
        "answer_ms_p50": quantile(times_s, 0.5),
        "answer_ms_p95": quantile(times_s, 0.95),
        "refusal_ms_p50": quantile(refusal_s, 0.5),
        "refusal_ms_p95": quantile(refusal_s, 0.95),
        "refusal_ms_max": quantile(refusal_s, 1.0),
        "late_ms_p95": quantile([one.late_s for one in answers], 0.95),
        "light_tenants_answered": round(
            sum(served[one] for one in light) / max(1, sum(offered[one] for one in light)), 3
        ),
        "least_of_fair_share": round(min(served[one] / shares[one] for one in offered), 3),
        "jain_index": round(jain_index([served[one] / shares[one] for one in offered]), 3),
    }

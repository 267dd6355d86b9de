"""Samples of Prometheus' text format, and the figures of a process between two of its pages."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bem_fleet.services.gateway.fleet_schema import ProcessPoint
from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]
# Only these lines are parsed: a page has hundreds, and the parser is slow.
_WANTED = re.compile(
    r"(?:bem_fleet_rpc_seconds_(?:count|bucket)|bem_gateway_requests_total"
    r"|bem_gateway_request_seconds_bucket|bem_safety_verdicts_total"
    r"|bem_[a-z]+_(?:generated_tokens_total|requests_running|requests_waiting|prefix_hit_ratio)"
    r"|process_cpu_seconds_total|process_resident_memory_bytes)\b"
)
# Probes, pages and streams that stay open are no work.
_OWN_ROUTES = frozenset({"/", "/ui/{name:path}", "/healthz", "/readyz", "/metrics"})
_OWN_PREFIX = "/v1/fleet"
_CONTRACT = "MissionService/"
_SERVER_FAULTS = frozenset({"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS"})
_ALLOWED = "allow"
_QUANTILE = 0.95


@dataclass(frozen=True)
class Sample:
    """One series of a page.

    Attributes:
        name: Name of the series.
        labels: Values of the labels by name.
        value: Number, in the unit that the name ends in.
    """

    name: str
    labels: Labels
    value: float


@dataclass(frozen=True)
class PageSamples:
    """What one metrics page said.

    Attributes:
        unix_s: Time of the reading, in seconds since the epoch.
        samples: Series that the dashboard uses.
    """

    unix_s: float
    samples: tuple[Sample, ...]

    def total(self, suffix: str, keep: Callable[[Labels], bool] = lambda _: True) -> float | None:
        """Return the sum of the series whose name ends in ``suffix``; None if there is none."""
        found = [s.value for s in self.samples if s.name.endswith(suffix) and keep(s.labels)]
        return sum(found) if found else None

    def has(self, name: str) -> bool:
        """Return whether the page has a series of this name."""
        return any(sample.name == name for sample in self.samples)


def parse_page(text: str, unix_s: float) -> PageSamples:
    """Return the series of a metrics page that the dashboard uses.

    Args:
        text: Page in Prometheus' text format.
        unix_s: Time of the reading, in seconds since the epoch.

    Raises:
        ValueError: The page is not in that format.
    """
    wanted = "\n".join(line for line in text.splitlines() if _WANTED.match(line)) + "\n"
    return PageSamples(
        unix_s,
        tuple(
            Sample(one.name, one.labels, one.value)
            for family in text_string_to_metric_families(wanted)
            for one in family.samples
        ),
    )


def process_point(pages: Sequence[PageSamples]) -> ProcessPoint:
    """Return the figures of a process.

    Args:
        pages: Readings of its page, oldest first, at least one. Rates are between the last two,
            percentiles between the first and the last.
    """
    first, last = pages[0], pages[-1]
    before = pages[-2] if len(pages) > 1 else None

    def per_second(suffix: str, keep: Callable[[Labels], bool] = lambda _: True) -> float | None:
        return _rate(before, last, suffix, keep)

    counts, seconds = "bem_fleet_rpc_seconds_count", "bem_fleet_rpc_seconds_bucket"
    if last.has("bem_gateway_requests_total"):
        counts = "bem_gateway_requests_total"
        seconds = "bem_gateway_request_seconds_bucket"
    return ProcessPoint(
        unix_ms=int(last.unix_s * 1000),
        requests_per_s=per_second(counts, _is_work),
        errors_per_s=per_second(counts, lambda labels: _is_work(labels) and _is_fault(labels)),
        latency_p95_s=_percentile(first, last, seconds),
        tokens_per_s=per_second("_generated_tokens_total"),
        running=last.total("_requests_running"),
        waiting=last.total("_requests_waiting"),
        withheld_per_s=per_second(
            "bem_safety_verdicts_total", lambda labels: labels.get("action") != _ALLOWED
        ),
        cache_hit_ratio=last.total("_prefix_hit_ratio"),
        cpu_cores=per_second("process_cpu_seconds_total"),
        memory_bytes=last.total("process_resident_memory_bytes"),
    )


def _is_work(labels: Labels) -> bool:
    if "route" in labels:
        route = labels["route"]
        return route not in _OWN_ROUTES and not route.startswith(_OWN_PREFIX)
    method = labels.get("method", "")
    return not method.startswith("/grpc.") and _CONTRACT not in method


def _is_fault(labels: Labels) -> bool:
    code = labels.get("code", "")
    return code.startswith("5") or code in _SERVER_FAULTS


def _rate(
    before: PageSamples | None, last: PageSamples, suffix: str, keep: Callable[[Labels], bool]
) -> float | None:
    """Return a counter's increase per second; a restart begins it at 0 again."""
    now = last.total(suffix, keep)
    if before is None or last.unix_s <= before.unix_s:
        return None
    if now is None:  # a labelled counter without a series has counted nothing
        return 0.0 if last.total(suffix) is not None else None
    then = before.total(suffix, keep) or 0.0
    return (now - then if now >= then else now) / (last.unix_s - before.unix_s)


def _percentile(first: PageSamples, last: PageSamples, name: str) -> float | None:
    """Return a percentile of what a histogram counted between two readings, in its unit.

    Linear within a bucket, as Prometheus' ``histogram_quantile``; None if nothing was counted.
    """
    then, now = _buckets(first, name), _buckets(last, name)
    counts = sorted((edge, max(0.0, count - then.get(edge, 0.0))) for edge, count in now.items())
    if first is last or not counts or not counts[-1][1]:
        return None
    rank, lower, below = _QUANTILE * counts[-1][1], 0.0, 0.0
    for edge, count in counts:
        if count >= rank:
            if math.isinf(edge) or count == below:
                return lower
            return lower + (edge - lower) * (rank - below) / (count - below)
        lower, below = edge, count
    return lower


def _buckets(page: PageSamples, name: str) -> dict[float, float]:
    found: dict[float, float] = {}
    for sample in page.samples:
        if sample.name == name and _is_work(sample.labels):
            edge = float(sample.labels["le"])
            found[edge] = found.get(edge, 0.0) + sample.value
    return found

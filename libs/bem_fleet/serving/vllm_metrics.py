"""Metrics of an engine under vLLM's names, which dashboards and endpoint pickers know.

The Gateway API inference extension reads four of them: its ``TotalQueuedRequests`` is
``vllm:num_requests_waiting``, ``TotalRunningRequests`` is ``vllm:num_requests_running``,
``KVCacheUtilization`` is ``vllm:kv_cache_usage_perc``, and the adapters of requests are the labels
of ``vllm:lora_requests_info``. Types, labels and meaning are those of vLLM's V1 engine.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from bem.adapters.loaded import LoadedAdapter
from bem.engine.counters import EngineCounters
from bem.engine.engine_load import EngineLoad
from bem.engine.latencies import Durations, Latencies
from bem.safety import SafetyOverlay
from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

LORA_INFO = "vllm:lora_requests_info"
"""Gauge with sets of adapters as labels: for endpoint pickers, and not for Prometheus to keep."""

GAUGES: tuple[tuple[str, str, Callable[[EngineCounters, EngineLoad], float]], ...] = (
    ("vllm:num_requests_running", "Requests in the batch now.", lambda c, _: c.running),
    ("vllm:num_requests_waiting", "Requests in the queue now.", lambda c, _: c.waiting),
    (
        "vllm:kv_cache_usage_perc",
        "Share of the KV cache that running requests hold; 1 is all of it.",
        lambda _, load: load.kv_usage,
    ),
)
COUNTERS: tuple[tuple[str, str, Callable[[EngineCounters], float]], ...] = (
    (
        "vllm:prompt_tokens_total",
        "Prompt tokens of admitted requests, computed or cached.",
        lambda c: c.prompt_tokens + c.reused_tokens,
    ),
    ("vllm:generation_tokens_total", "Tokens generated.", lambda c: c.generated_tokens),
    (
        "vllm:prefix_cache_queries_total",
        "Prompt tokens looked up in the prefix cache.",
        lambda c: c.prompt_tokens + c.reused_tokens,
    ),
    (
        "vllm:prefix_cache_hits_total",
        "Prompt tokens taken from the prefix cache.",
        lambda c: c.reused_tokens,
    ),
)
HISTOGRAMS: tuple[tuple[str, str, Callable[[Latencies], Durations]], ...] = (
    (
        "vllm:time_to_first_token_seconds",
        "Time from a request's acceptance to its first token.",
        lambda one: one.first_token,
    ),
    (
        "vllm:inter_token_latency_seconds",
        "Time between two successive tokens of a request.",
        lambda one: one.inter_token,
    ),
    (
        "vllm:time_per_output_token_seconds",
        "The same under the name that vLLM used before.",
        lambda one: one.inter_token,
    ),
    (
        "vllm:request_time_per_output_token_seconds",
        "Mean time between two tokens of a complete request.",
        lambda one: one.output_token,
    ),
    (
        "vllm:e2e_request_latency_seconds",
        "Time from a request's acceptance to its end.",
        lambda one: one.request,
    ),
)
FINISHED = "vllm:request_success_total", "Requests that have ended, by finish reason."
_LABELS = ("model_name", "engine")


class MeasuredEngine(Protocol):
    """An engine whose state can be read from any thread."""

    @property
    def counters(self) -> EngineCounters:
        """Counters of the engine."""
        ...

    @property
    def load(self) -> EngineLoad:
        """What running and waiting requests use now."""
        ...

    @property
    def safety(self) -> SafetyOverlay | None:
        """The safety adapter in the bank, or None."""
        ...

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters."""
        ...

    @property
    def prefix_cache_bytes(self) -> int:
        """Memory that the blocks of the prefix cache use now."""
        ...

    @property
    def kv_tokens(self) -> int:
        """Positions of the KV cache that running requests hold now."""
        ...


class EngineCollector(Collector):
    """Reads one engine at scrape; exports nothing before an engine is attached.

    Attributes:
        engine: The attached engine, or None.
    """

    def __init__(self) -> None:
        self.engine: MeasuredEngine | None = None
        self._model = ""

    def attach(self, engine: MeasuredEngine, model: str) -> None:
        """Export an engine from now on.

        Args:
            engine: The engine.
            model: Name of its base model.
        """
        self.engine, self._model = engine, model

    def detach(self, engine: MeasuredEngine) -> None:
        """Stop exporting ``engine`` if it is the attached one."""
        if self.engine is engine:
            self.engine = None

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with the values of now."""
        if self.engine is None:
            return
        counters, load = self.engine.counters, self.engine.load
        labels = (self._model, "0")
        for name, text, value in GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            gauge.add_metric(labels, value(counters, load))
            yield gauge
        for name, text, count in COUNTERS:
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            counter.add_metric(labels, count(counters))
            yield counter
        for name, text, durations in HISTOGRAMS:
            yield histogram(
                name, text, durations(counters.latencies), dict(zip(_LABELS, labels, strict=True))
            )
        yield _finished(counters, labels)
        yield _lora_info(load)


def histogram(
    name: str, text: str, durations: Durations, labels: dict[str, str] | None = None
) -> HistogramMetricFamily:
    """Return a histogram of the engine as a metric.

    Args:
        name: Name of the metric.
        text: Help text.
        durations: What the engine has observed.
        labels: Labels with their values; None for none.
    """
    labels = labels or {}
    family = HistogramMetricFamily(name, text, labels=tuple(labels))
    *bounded, (_, every) = durations.cumulative()
    buckets = [*((str(bound), count) for bound, count in bounded), ("+Inf", every)]
    family.add_metric(tuple(labels.values()), buckets, durations.sum_s)
    return family


def _finished(counters: EngineCounters, labels: tuple[str, str]) -> CounterMetricFamily:
    family = CounterMetricFamily(*FINISHED, labels=(*_LABELS, "finished_reason"))
    for reason, count in counters.latencies.finished.items():
        family.add_metric((*labels, reason), count)
    family.add_metric((*labels, "abort"), counters.dropped)
    return family


def _lora_info(load: EngineLoad) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        LORA_INFO,
        "Time of the scrape, with the adapters of running and of waiting requests.",
        labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
    )
    running, waiting = ",".join(load.running_adapters), ",".join(load.waiting_adapters)
    family.add_metric((str(load.adapter_slots), running, waiting), time.time())
    return family


ENGINE_METRICS = EngineCollector()
REGISTRY.register(ENGINE_METRICS)

"""Prometheus metrics of the router: engine counters read at scrape, and request latencies."""

from collections.abc import Callable, Iterator
from typing import Protocol

from bem.engine.counters import EngineCounters
from prometheus_client import REGISTRY, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

TTFT = Histogram(
    "bem_router_ttft_seconds",
    "Time to the first output delta of a streamed response.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
INTER_TOKEN = Histogram(
    "bem_router_inter_token_seconds",
    "Time between two output deltas of a streamed response.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
RESIDENT = Gauge("bem_router_adapter_resident", "1 while loaded.", ["adapter", "version"])
WEIGHTS = Gauge(
    "bem_router_weights",
    "1 for the weight format that is served, as requested or selected, and its kernels.",
    ["format", "requested", "kernels"],
)
REJECTED = Gauge(
    "bem_router_adapter_rejected", "1 while a folder of this name cannot be served.", ["adapter"]
)
SAFETY_ADAPTER = Gauge(
    "bem_router_safety_adapter_loaded", "1 if requests are served with the safety adapter."
)

GAUGES: tuple[tuple[str, str, Callable[[EngineCounters], float]], ...] = (
    ("bem_router_requests_running", "Requests in the batch now.", lambda c: c.running),
    ("bem_router_requests_waiting", "Requests in the queue now.", lambda c: c.waiting),
    (
        "bem_router_kv_bytes",
        "Bytes of the keys and values that running requests store.",
        lambda c: c.kv_bytes,
    ),
    (
        "bem_router_prefix_hit_ratio",
        "Share of all prompt tokens taken from the prefix cache.",
        lambda c: c.reused_tokens / max(1, c.reused_tokens + c.prompt_tokens),
    ),
)
COUNTERS: tuple[tuple[str, str, Callable[[EngineCounters], float]], ...] = (
    ("bem_router_decode_steps_total", "Decode steps.", lambda c: c.steps),
    ("bem_router_prompt_tokens_total", "Prompt tokens computed.", lambda c: c.prompt_tokens),
    ("bem_router_generated_tokens_total", "Tokens generated.", lambda c: c.generated_tokens),
    (
        "bem_router_requests_dropped_total",
        "Requests cancelled or past their deadline.",
        lambda c: c.dropped,
    ),
    (
        "bem_router_kv_evicted_tokens_total",
        "Positions that the cache policy has evicted.",
        lambda c: c.evicted_tokens,
    ),
    (
        "bem_router_prefix_reused_tokens_total",
        "Prompt tokens taken from the prefix cache.",
        lambda c: c.reused_tokens,
    ),
    (
        "bem_router_prefix_reused_lower_tokens_total",
        "Prompt tokens whose lower half was taken from the prefix cache.",
        lambda c: c.reused_lower_tokens,
    ),
    (
        "bem_router_adapter_page_ins_total",
        "Adapters copied into a slot of the adapter bank.",
        lambda c: c.page_ins,
    ),
    (
        "bem_router_composed_requests_total",
        "Requests admitted with two or more adapters at once.",
        lambda c: c.composed,
    ),
    (
        "bem_router_trust_region_scaled_total",
        "Codes of compositions that the trust region scaled at some site.",
        lambda c: c.scaled_codes,
    ),
)
KV_TOKENS = "bem_router_kv_tokens", "Positions of the KV cache that running requests hold."
PREFIX_BYTES = "bem_router_prefix_cache_bytes", "Memory of the blocks in the prefix cache."


class MeasuredEngine(Protocol):
    """An engine whose counters can be read from any thread."""

    @property
    def counters(self) -> EngineCounters:
        """Counters of the engine."""
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
    """Reads the engine's counters at scrape; all metrics are 0 until an engine is attached."""

    def __init__(self) -> None:
        self._engine: MeasuredEngine | None = None

    def attach(self, engine: MeasuredEngine) -> None:
        """Export the counters of ``engine`` from now on."""
        self._engine = engine

    def detach(self, engine: MeasuredEngine) -> None:
        """Stop exporting the counters of ``engine`` if it is the attached one."""
        if self._engine is engine:
            self._engine = None

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with the values of now."""
        engine = self._engine
        counters = engine.counters if engine else EngineCounters()
        for name, text, value in GAUGES:
            yield GaugeMetricFamily(name, text, value(counters))
        yield GaugeMetricFamily(*KV_TOKENS, engine.kv_tokens if engine else 0)
        yield GaugeMetricFamily(*PREFIX_BYTES, engine.prefix_cache_bytes if engine else 0)
        for name, text, value in COUNTERS:
            yield CounterMetricFamily(name, text, value(counters))


ENGINE_METRICS = EngineCollector()
REGISTRY.register(ENGINE_METRICS)

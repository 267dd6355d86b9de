"""Prometheus metrics of the router, with the engine's counters and latencies read at scrape."""

from collections.abc import Callable, Iterator

from bem.backbone import VERSION_CHARS
from bem.engine.counters import EngineCounters
from bem_fleet.serving.vllm_metrics import (
    ENGINE_METRICS,
    EngineCollector,
    MeasuredEngine,
    histogram,
)
from prometheus_client import REGISTRY, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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
RESIDENT = "bem_router_adapter_resident", "1 for each adapter and version that is loaded."
KV_TOKENS = "bem_router_kv_tokens", "Positions of the KV cache that running requests hold."
TTFT = "bem_router_ttft_seconds", "Time from a request's acceptance to its first token."
INTER_TOKEN = "bem_router_inter_token_seconds", "Time between two successive tokens of a request."
PREFIX_BYTES = "bem_router_prefix_cache_bytes", "Memory of the blocks in the prefix cache."


class RouterCollector(Collector):
    """Reads the counters of the attached engine at scrape; all are 0 until there is one.

    Args:
        source: Holds the engine.
    """

    def __init__(self, source: EngineCollector) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with the values of now."""
        engine = self._source.engine
        counters = engine.counters if engine else EngineCounters()
        for name, text, value in GAUGES:
            yield GaugeMetricFamily(name, text, value(counters))
        yield GaugeMetricFamily(*KV_TOKENS, engine.kv_tokens if engine else 0)
        yield GaugeMetricFamily(*PREFIX_BYTES, engine.prefix_cache_bytes if engine else 0)
        for name, text, value in COUNTERS:
            yield CounterMetricFamily(name, text, value(counters))
        yield _resident(engine)
        yield histogram(*TTFT, counters.latencies.first_token)
        yield histogram(*INTER_TOKEN, counters.latencies.inter_token)


def _resident(engine: MeasuredEngine | None) -> GaugeMetricFamily:
    """Return a series for each loaded adapter; one that is unloaded or replaced leaves none."""
    family = GaugeMetricFamily(*RESIDENT, labels=("adapter", "version"))
    loaded = {one.name: one.version for one in engine.adapters()} if engine else {}
    if engine and engine.safety:
        loaded["safety"] = engine.safety.version
    for name, version in loaded.items():
        family.add_metric((name, version[:VERSION_CHARS]), 1)
    return family


REGISTRY.register(RouterCollector(ENGINE_METRICS))

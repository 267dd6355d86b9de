"""Tests of the engine's metrics under vLLM's names."""

import time

from bem.adapters.loaded import LoadedAdapter
from bem.engine.counters import EngineCounters
from bem.engine.engine_load import EngineLoad
from bem_fleet.serving.vllm_metrics import EngineCollector
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

MODEL = {"model_name": "tiny", "engine": "0"}
# Name and type of each metric as vLLM's V1 engine declares it (vllm/v1/metrics/loggers.py).
VLLM = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:prompt_tokens": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:prefix_cache_queries": "counter",
    "vllm:prefix_cache_hits": "counter",
    "vllm:request_success": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:time_per_output_token_seconds": "histogram",
    "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:lora_requests_info": "gauge",
}


class Engine:
    """An engine with fixed counters and load."""

    def __init__(self) -> None:
        self.counters = EngineCounters(
            running=3, waiting=2, prompt_tokens=30, reused_tokens=10, generated_tokens=7, dropped=4
        )
        self.load = EngineLoad(0.25, 8, ("alpha", "beta"), ("gamma",))
        self.prefix_cache_bytes = self.kv_tokens = 0
        self.safety = None

    def adapters(self) -> list[LoadedAdapter]:
        """Return no adapters: the load names those of requests."""
        return []


def scraped() -> tuple[CollectorRegistry, EngineCollector, Engine]:
    """Return a registry whose collector has an engine attached."""
    registry, collector, engine = CollectorRegistry(), EngineCollector(), Engine()
    registry.register(collector)
    collector.attach(engine, "tiny")
    return registry, collector, engine


def test_names_and_types_are_vllms() -> None:
    """The page has exactly vLLM's families, each with its type."""
    page = generate_latest(scraped()[0]).decode()
    families = {one.name: one.type for one in text_string_to_metric_families(page)}

    assert families == VLLM


def test_values_are_the_engines() -> None:
    """Queue, batch, cache and tokens are read at scrape; cached prompt tokens count as prompt."""
    registry, _, engine = scraped()
    engine.counters.waiting = 5

    assert registry.get_sample_value("vllm:num_requests_running", MODEL) == 3
    assert registry.get_sample_value("vllm:num_requests_waiting", MODEL) == 5
    assert registry.get_sample_value("vllm:kv_cache_usage_perc", MODEL) == 0.25
    assert registry.get_sample_value("vllm:prompt_tokens_total", MODEL) == 40
    assert registry.get_sample_value("vllm:prefix_cache_hits_total", MODEL) == 10
    assert registry.get_sample_value("vllm:generation_tokens_total", MODEL) == 7


def test_latencies_are_histograms() -> None:
    """Count, sum and cumulative buckets are the engine's; both names of one latency agree."""
    registry, _, engine = scraped()
    for seconds in (0.02, 0.3, 90.0):
        engine.counters.latencies.inter_token.observe(seconds)
    for name in ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"):
        assert registry.get_sample_value(f"{name}_count", MODEL) == 3
        assert registry.get_sample_value(f"{name}_sum", MODEL) == 90.32
        assert registry.get_sample_value(f"{name}_bucket", {**MODEL, "le": "0.3"}) == 2
        assert registry.get_sample_value(f"{name}_bucket", {**MODEL, "le": "+Inf"}) == 3


def test_ended_requests_are_counted_by_reason() -> None:
    """Complete requests have their reason; cancelled and late ones are aborts."""
    registry, _, engine = scraped()
    engine.counters.latencies.finished["length"] = 6
    counts = {
        reason: registry.get_sample_value(
            "vllm:request_success_total", {**MODEL, "finished_reason": reason}
        )
        for reason in ("stop", "length", "abort")
    }

    assert counts == {"stop": 0, "length": 6, "abort": 4}


def test_adapters_of_requests_are_labels_of_one_series() -> None:
    """The newest state replaces the last one, so that a page has one series whatever happens."""
    registry, _, engine = scraped()
    for waiting in (("gamma",), ("delta", "gamma"), ()):
        engine.load = EngineLoad(0.0, 8, ("alpha", "beta"), waiting)
        (family,) = (one for one in registry.collect() if one.name == "vllm:lora_requests_info")
        (sample,) = family.samples
        assert sample.labels == {
            "max_lora": "8",
            "running_lora_adapters": "alpha,beta",
            "waiting_lora_adapters": ",".join(waiting),
        }
        assert abs(sample.value - time.time()) < 60


def test_nothing_is_exported_without_an_engine() -> None:
    """A process whose model is loading shows no idle engine to an endpoint picker."""
    registry, collector, engine = scraped()
    collector.detach(Engine())
    assert list(registry.collect())
    collector.detach(engine)

    assert not list(registry.collect())

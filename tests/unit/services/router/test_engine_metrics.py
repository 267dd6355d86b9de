"""Tests of the metrics that are read at scrape."""

from types import SimpleNamespace
from typing import Any

from bem.engine.counters import EngineCounters
from bem.engine.engine_load import EngineLoad
from bem_fleet.services.router.engine_metrics import RouterCollector
from bem_fleet.serving.vllm_metrics import EngineCollector
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest


class Engine:
    """An engine with fixed counters."""

    def __init__(self) -> None:
        self.counters = EngineCounters(
            running=3, prompt_tokens=30, reused_tokens=10, steps=7, kv_bytes=2048, evicted_tokens=5
        )
        self.prefix_cache_bytes = 4096
        self.counters.latencies.first_token.observe(0.03)
        self.load = EngineLoad()
        self.kv_tokens = 512
        self.safety: Any = SimpleNamespace(version="5" * 64)
        self.loaded: Any = {"qa": "a" * 64}

    def adapters(self) -> Any:
        """Return the loaded adapters."""
        return [SimpleNamespace(name=name, version=one) for name, one in self.loaded.items()]


def test_counters_are_read_at_scrape() -> None:
    """A scrape shows the values of now, and zeros without an engine."""
    registry, attached, engine = CollectorRegistry(), EngineCollector(), Engine()
    registry.register(RouterCollector(attached))
    assert registry.get_sample_value("bem_router_decode_steps_total") == 0
    attached.attach(engine, "tiny")
    assert registry.get_sample_value("bem_router_decode_steps_total") == 7
    engine.counters.steps = 8

    assert registry.get_sample_value("bem_router_decode_steps_total") == 8
    assert registry.get_sample_value("bem_router_requests_running") == 3
    assert registry.get_sample_value("bem_router_prefix_hit_ratio") == 0.25
    assert registry.get_sample_value("bem_router_prefix_cache_bytes") == 4096
    assert registry.get_sample_value("bem_router_kv_tokens") == 512
    assert registry.get_sample_value("bem_router_kv_bytes") == 2048
    assert registry.get_sample_value("bem_router_kv_evicted_tokens_total") == 5
    assert registry.get_sample_value("bem_router_ttft_seconds_count") == 1
    assert registry.get_sample_value("bem_router_ttft_seconds_bucket", {"le": "0.02"}) == 0
    assert registry.get_sample_value("bem_router_ttft_seconds_bucket", {"le": "0.04"}) == 1
    attached.detach(engine)
    assert registry.get_sample_value("bem_router_requests_running") == 0


def test_adapters_that_are_gone_leave_no_series() -> None:
    """A reloaded adapter has one series, of its new version; an unloaded one has none."""
    registry, attached, engine = CollectorRegistry(), EngineCollector(), Engine()
    registry.register(RouterCollector(attached))
    attached.attach(engine, "tiny")

    def resident() -> dict[str, str]:
        (family,) = (one for one in registry.collect() if one.name.endswith("adapter_resident"))
        return {one.labels["adapter"]: one.labels["version"] for one in family.samples}

    assert resident() == {"qa": "a" * 12, "safety": "5" * 12}
    engine.loaded = {"qa": "b" * 64}
    assert resident() == {"qa": "b" * 12, "safety": "5" * 12}
    engine.loaded, engine.safety = {}, None
    assert resident() == {}


def test_metric_names_are_those_of_the_dashboards() -> None:
    """All metrics of the router are on the process's metrics page."""
    page = generate_latest(REGISTRY).decode()
    for name in (
        "requests_running",
        "requests_waiting",
        "requests_dropped_total",
        "decode_steps_total",
        "prompt_tokens_total",
        "generated_tokens_total",
        "ttft_seconds_count",
        "inter_token_seconds_count",
        "prefix_reused_tokens_total",
        "prefix_reused_lower_tokens_total",
        "prefix_hit_ratio",
        "prefix_cache_bytes",
        "kv_tokens",
        "kv_bytes",
        "kv_evicted_tokens_total",
        "adapter_page_ins_total",
        "composed_requests_total",
        "trust_region_scaled_total",
    ):
        assert f"\nbem_router_{name} " in page
    assert "# TYPE bem_router_adapter_resident gauge" in page

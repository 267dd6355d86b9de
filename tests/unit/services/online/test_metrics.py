"""Metrics of the online mission."""

from types import SimpleNamespace
from typing import Any

from bem_fleet.services.online.metrics import observe_engine
from prometheus_client import generate_latest


def test_counters_of_the_engine_are_read_at_each_scrape() -> None:
    """Both gauges follow the engine; an alert on rollbacks has series from the start."""
    counters = SimpleNamespace(running=1, waiting=2)
    host: Any = SimpleNamespace(engine=SimpleNamespace(counters=counters))
    observe_engine(host)
    counters.waiting = 3
    page = generate_latest().decode()

    assert "bem_online_requests_running 1.0" in page
    assert "bem_online_requests_waiting 3.0" in page
    assert 'bem_online_rollbacks_total{reason="drift"}' in page

"""Metrics of the sep mission."""

from bem_fleet.serving import EngineHost
from prometheus_client import Counter, Gauge, Histogram

RUNNING = Gauge("bem_sep_requests_running", "Answers in the batch.")
WAITING = Gauge("bem_sep_requests_waiting", "Answers in the queue.")
REQUESTS = Counter("bem_sep_requests_total", "Answered requests.", ["method"])
SECONDS = Histogram("bem_sep_request_seconds", "Time from a request to its answer.", ["method"])
EMBEDDED = Counter("bem_sep_embedded_tokens_total", "Tokens of texts that were embedded.")
SENSITIVITY = Histogram(
    "bem_sep_sensitivity_ratio",
    "Sensitivity of the measured messages.",
    buckets=[step / 10 for step in range(1, 11)],
)
FRONT_MISSING = Gauge(
    "bem_sep_front_missing", "Whether the base model is served without the surface front."
)


def observe_engine(host: EngineHost) -> None:
    """Export the engine's counters, which are read at each scrape."""
    RUNNING.set_function(lambda: host.engine.counters.running)
    WAITING.set_function(lambda: host.engine.counters.waiting)

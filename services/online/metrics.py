"""Metrics of the online mission."""

from bem_fleet.serving import EngineHost
from prometheus_client import Counter, Gauge, Histogram

RUNNING = Gauge("bem_online_requests_running", "Requests in the batch.")
WAITING = Gauge("bem_online_requests_waiting", "Requests in the queue.")
REQUESTS = Counter("bem_online_requests_total", "Answered requests.")
SECONDS = Histogram("bem_online_request_seconds", "Time from a request to its answer.")
ANSWERS = Counter(
    "bem_online_answers_total", "Answers of the base model and of learned codes.", ["source"]
)
LIVE = Gauge("bem_online_live_version", "Version that is served; 0 is the base model.")
CONDITIONS = Gauge("bem_online_conditions", "Conditions of the served version.")
LEARNS = Gauge("bem_online_learner", "Whether this process is the one that learns.")
BANK = Gauge("bem_online_bank_loaded", "Whether there is a bank to learn with.")
VERSIONS = Counter("bem_online_versions_total", "Versions by what the gate decided.", ["outcome"])
DECISIONS = Counter(
    "bem_online_decisions_total", "Changes of the live version and forgettings.", ["action"]
)
ROLLBACKS = Counter("bem_online_rollbacks_total", "Versions taken back by themselves.", ["reason"])
# Series that exist from the start: an alert on their increase sees the first one.
for _reason in ("drift", "feedback"):
    ROLLBACKS.labels(_reason)
LEARN_SECONDS = Histogram(
    "bem_online_learn_seconds",
    "Time to learn and judge one version.",
    buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320, 640, float("inf")),
)
FAILED = Counter("bem_online_learn_failures_total", "Lessons that ended with an error.", ["error"])
DRIFT = Counter("bem_online_drift_alarms_total", "Alarms of the drift monitor.", ["detector"])
for _detector in ("adwin", "page_hinkley"):
    DRIFT.labels(_detector)
LIKELIHOOD = Gauge(
    "bem_online_answer_likelihood_nats", "Mean log-probability a token of learned answers."
)


def observe_engine(host: EngineHost) -> None:
    """Export the engine's counters, which are read at each scrape."""
    RUNNING.set_function(lambda: host.engine.counters.running)
    WAITING.set_function(lambda: host.engine.counters.waiting)

"""Metrics of the memory mission."""

from bem_fleet.serving import EngineHost
from prometheus_client import Counter, Gauge, Histogram

RUNNING = Gauge("bem_memory_requests_running", "Answers in the batch.")
WAITING = Gauge("bem_memory_requests_waiting", "Answers in the queue.")
CHARACTERS = Counter("bem_memory_ingested_characters_total", "Characters that were acknowledged.")
SENTENCES = Counter("bem_memory_sentences_total", "Sentences by what became of them.", ["outcome"])
INGEST_SECONDS = Histogram(
    "bem_memory_ingest_seconds", "Time to encode, store and apply one part of a document."
)
QUERIES = Counter("bem_memory_queries_total", "Questions by their outcome.", ["outcome"])
RETRIEVAL_SECONDS = Histogram("bem_memory_retrieval_seconds", "Time to find the evidence.")
QUERY_SECONDS = Histogram("bem_memory_query_seconds", "Time from a question to its outcome.")
CACHED = Gauge("bem_memory_sessions_cached", "Sessions in the process.")
LOADS = Counter("bem_memory_session_loads_total", "Sessions that were read from Redis.")
COMPACTIONS = Counter("bem_memory_snapshots_total", "Snapshots that replaced a journal.")
CONFLICTS = Counter("bem_memory_conflicts_total", "Writes that met a session changed elsewhere.")


def observe_engine(host: EngineHost) -> None:
    """Export the engine's counters, which are read at each scrape."""
    RUNNING.set_function(lambda: host.engine.counters.running)
    WAITING.set_function(lambda: host.engine.counters.waiting)

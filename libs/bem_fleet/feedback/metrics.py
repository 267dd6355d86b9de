"""Metrics of the feedback queue and processor."""

from prometheus_client import Counter, Gauge

REFUSED = Counter(
    "bem_feedback_refused_total", "Feedback refused before it was acknowledged.", ["reason"]
)
PROCESSED = Counter(
    "bem_feedback_processed_total", "Entries of the queue by what became of them.", ["outcome"]
)
CLAIMED = Counter("bem_feedback_claimed_total", "Entries taken over from other consumers.")
INTERRUPTED = Counter(
    "bem_feedback_interrupted_total", "Rounds of the consumer that ended with an error of Redis."
)
FAILED = Counter(
    "bem_feedback_failed_total", "Entries whose processing raised an error, by its type.", ["error"]
)
BACKLOG = Gauge("bem_feedback_backlog_entries", "Entries that have no effect yet.")
OLDEST = Gauge("bem_feedback_oldest_age_seconds", "Age of the oldest entry without an effect.")
DEAD = Gauge("bem_feedback_dead_letters", "Dead letters.")
DEAD_ROOM = Gauge("bem_feedback_dead_letters_room", "Dead letters until their limit.")
EVENTS = Gauge("bem_feedback_events", "Events that a learner may use.")
FAMILIES = Gauge("bem_feedback_families", "Families of events.")

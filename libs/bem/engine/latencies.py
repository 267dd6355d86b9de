"""Latency histograms of the engine: what its thread observes and any thread may read."""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# The bounds are vLLM's, so that quantiles of both engines compare bucket by bucket.
_FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_REQUEST_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


class Durations:
    """A histogram of durations.

    Args:
        bounds: Upper bounds of the buckets in seconds, rising; one without a bound follows.

    Attributes:
        sum_s: Sum of all observations, in seconds.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration of at least 0 seconds."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self._counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return each upper bound with the number of observations up to it; the last is ``inf``."""
        bounds = (*self._bounds, float("inf"))
        return list(zip(bounds, accumulate(self._counts), strict=True))


@dataclass
class RequestTimes:
    """Moments of one request, from which its latencies follow; all by ``time.monotonic()``.

    Attributes:
        arrived_at: When it was accepted.
        first_at: When its first token was sampled.
        last_at: When its latest token was sampled.
        tokens: Number of tokens sampled.
    """

    arrived_at: float
    first_at: float = 0.0
    last_at: float = 0.0
    tokens: int = 0


class Latencies:
    """Latencies of all requests.

    A token is timed when it is sampled, whether or not its text leaves at once; the end token is
    none. Requests that fail or are dropped have no latency as a whole.

    Attributes:
        first_token: Times from acceptance to the first token, the queue included.
        inter_token: Times between two successive tokens.
        output_token: Mean time between two tokens of each complete request of two or more.
        request: Times from acceptance to the end of complete requests.
        finished: Complete requests by finish reason.
    """

    def __init__(self) -> None:
        self.first_token = Durations(_FIRST_TOKEN_BOUNDS)
        self.inter_token = Durations(_TOKEN_BOUNDS)
        self.output_token = Durations(_TOKEN_BOUNDS)
        self.request = Durations(_REQUEST_BOUNDS)
        self.finished: dict[str, int] = {"stop": 0, "length": 0}

    def observe_token(self, times: RequestTimes) -> None:
        """Count a token that was sampled now."""
        now = time.monotonic()
        if times.tokens:
            self.inter_token.observe(now - times.last_at)
        else:
            self.first_token.observe(now - times.arrived_at)
            times.first_at = now
        times.last_at = now
        times.tokens += 1

    def observe_end(self, times: RequestTimes, reason: str) -> None:
        """Count a request that is complete now, by its finish reason."""
        self.finished[reason] += 1
        self.request.observe(time.monotonic() - times.arrived_at)
        if times.tokens > 1:
            span = times.last_at - times.first_at
            self.output_token.observe(span / (times.tokens - 1))

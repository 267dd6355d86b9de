"""Circuit breaker: after consecutive failures calls are rejected at once for a while."""

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after ``failure_limit`` consecutive failures, for ``open_s`` seconds.

    After that time it is half-open: one call is allowed as a probe. Its success closes the
    breaker; its failure opens it again.

    Args:
        failure_limit: Consecutive failures that open the breaker.
        open_s: Seconds that the breaker stays open.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        failure_limit: int = 5,
        open_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure_limit = failure_limit
        self.open_s = open_s
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    def allow_request(self, *, reserve_probe: bool = True) -> bool:
        """Return whether a call may be made now.

        Args:
            reserve_probe: Whether the caller will make the call. While half-open, only the first
                such caller per ``open_s`` seconds is allowed.
        """
        if self._failures < self.failure_limit:
            return True
        now = self._clock()
        if now < self._open_until:
            return False
        if reserve_probe:
            self._open_until = now + self.open_s
        return True

    def record_failure(self) -> None:
        """Count a failed call."""
        self._failures += 1
        if self._failures >= self.failure_limit:
            self._open_until = self._clock() + self.open_s

    def record_success(self) -> None:
        """Close the breaker after a successful call."""
        self._failures = 0

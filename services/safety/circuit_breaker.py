"""A circuit breaker: what failed several times in a row is left alone for a while."""

import time
from collections.abc import Callable


class CircuitBreaker:
    """Counts failures in a row; after ``limit`` of them lets nothing through for ``rest_s``.

    After the rest one call is let through; its end decides whether the others are.

    Attributes:
        limit: Failures in a row that open it.
        rest_s: Seconds that it stays open.

    Args:
        limit: See above.
        rest_s: See above.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self, limit: int = 5, rest_s: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self.rest_s = rest_s
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    def allow_request(self, *, probe: bool = True) -> bool:
        """Return whether a call may be made now.

        Args:
            probe: Whether the caller will make it; while open only one caller a rest may.
        """
        if self._failures < self.limit:
            return True
        now = self._clock()
        if now < self._open_until:
            return False
        if probe:
            self._open_until = now + self.rest_s
        return True

    def failed(self) -> None:
        """Note that a call failed."""
        self._failures += 1
        if self._failures >= self.limit:
            self._open_until = self._clock() + self.rest_s

    def succeeded(self) -> None:
        """Note that a call did not fail."""
        self._failures = 0

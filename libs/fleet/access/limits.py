"""Limits by key: requests and tokens per minute as token buckets, and requests in flight.

Each process counts on its own, so that a limit costs no call to another process; with several
replicas a key may use its limit at each of them. Tokens are charged after they were made: a key
whose bucket is in debt waits until it is paid off, so that over minutes the rate is the limit's.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from fleet.access.access import REFUSED
from fleet.access.principal import Limits, Principal
from fleet.errors import RateLimitedError

_MINUTE_S = 60.0


@dataclass
class _Bucket:
    """Token bucket that holds one minute's worth; its level may be negative."""

    level: float
    at: float

    def refill(self, per_minute: int, now: float) -> None:
        rate = per_minute / _MINUTE_S
        self.level = min(float(per_minute), self.level + (now - self.at) * rate)
        self.at = now

    def wait_s(self, needed: float, per_minute: int) -> float:
        """Return the time until the level is at least ``needed``, in seconds."""
        return max(0.0, (needed - self.level) * _MINUTE_S / per_minute)


@dataclass
class _Usage:
    """Use of one key."""

    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    in_flight: int = 0


@dataclass
class Admission:
    """One admitted request; ``release`` ends it.

    Attributes:
        limits: Limits of its key.
    """

    limits: Limits = field(default_factory=Limits)
    _usage: _Usage = field(default_factory=_Usage)
    _released: bool = False

    @property
    def counts_tokens(self) -> bool:
        """Whether the key has a limit of tokens, so that they must be charged."""
        return self.limits.tokens_per_minute is not None

    def charge(self, tokens: int) -> None:
        """Charge tokens to the key."""
        if self._usage.tokens is not None:
            self._usage.tokens.level -= tokens

    def release(self) -> None:
        """End the request; a second call does nothing."""
        if not self._released:
            self._released = True
            self._usage.in_flight -= 1


admission: ContextVar[Admission | None] = ContextVar("admission", default=None)
"""Admission of the request being served; None outside of one."""


class Limiter:
    """Admits requests within the limits of their keys.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usages: dict[str, _Usage] = {}

    def admit(self, caller: Principal) -> Admission:
        """Admit one request of a caller; it must be released.

        Raises:
            RateLimitedError: The caller has reached a limit; the error has the delay of a retry.
        """
        limits = caller.limits
        if limits == Limits():
            return Admission()
        usage = self._usages.setdefault(caller.name, _Usage())
        now = self._clock()
        self._check_concurrency(caller, usage)
        tokens = usage.tokens = _refilled(usage.tokens, limits.tokens_per_minute, now)
        requests = usage.requests = _refilled(usage.requests, limits.requests_per_minute, now)
        if tokens and limits.tokens_per_minute and tokens.level <= 0:
            wait_s = tokens.wait_s(1.0, limits.tokens_per_minute)
            raise _refusal(caller, "tokens", f"{limits.tokens_per_minute} tokens a minute", wait_s)
        if requests and limits.requests_per_minute:
            if requests.level < 1:
                wait_s = requests.wait_s(1.0, limits.requests_per_minute)
                limit = f"{limits.requests_per_minute} requests a minute"
                raise _refusal(caller, "requests", limit, wait_s)
            requests.level -= 1
        usage.in_flight += 1
        return Admission(limits, usage)

    def _check_concurrency(self, caller: Principal, usage: _Usage) -> None:
        most = caller.limits.concurrent
        if most is not None and usage.in_flight >= most:
            raise _refusal(caller, "concurrent", f"{most} requests in flight", 1.0)


def _refilled(bucket: _Bucket | None, per_minute: int | None, now: float) -> _Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return _Bucket(float(per_minute), now)
    bucket.refill(per_minute, now)
    return bucket


def _refusal(caller: Principal, reason: str, limit: str, wait_s: float) -> RateLimitedError:
    REFUSED.labels(reason).inc()
    return RateLimitedError(
        f"key {caller.name!r}: its limit is reached; the limit is {limit}; retry after "
        f"{wait_s:.1f} s",
        wait_s,
    )

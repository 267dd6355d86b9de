"""Limits by key on a clock of the test."""

import pytest
from fleet.access.limits import Limiter
from fleet.access.principal import Limits, Principal, Role
from fleet.errors import RateLimitedError


class Clock:
    """Clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def caller(name: str = "web", **limits: int) -> Principal:
    """Return a user with limits."""
    return Principal(name, Role.USER, limits=Limits(**limits), has_key=True)


def refusal(limiter: Limiter, who: Principal) -> RateLimitedError:
    """Return the error with which a caller is refused."""
    with pytest.raises(RateLimitedError, match="limit") as caught:
        limiter.admit(who)
    return caught.value


def test_requests_are_limited_by_the_minute() -> None:
    """A minute's worth may come at once; then one passes at the rate of the limit."""
    clock = Clock()
    limiter, who = Limiter(clock), caller(requests_per_minute=6)
    for _ in range(6):
        limiter.admit(who).release()
    assert refusal(limiter, who).retry_after_s == pytest.approx(10)
    clock.now += 9.9
    refusal(limiter, who)
    clock.now += 0.2
    limiter.admit(who).release()

    assert refusal(limiter, who).retry_after_s == pytest.approx(9.9)


def test_tokens_are_charged_after_they_were_made() -> None:
    """A key in debt waits until it is paid off."""
    clock = Clock()
    limiter, who = Limiter(clock), caller(tokens_per_minute=60)
    first = limiter.admit(who)
    first.charge(90)
    first.release()
    assert refusal(limiter, who).retry_after_s == pytest.approx(31)
    clock.now += 31.1

    limiter.admit(who).release()


def test_requests_in_flight_are_limited() -> None:
    """A released request makes room; releasing twice makes no more."""
    limiter, who = Limiter(Clock()), caller(concurrent=2)
    first, second = limiter.admit(who), limiter.admit(who)
    assert refusal(limiter, who).retry_after_s == 1
    first.release()
    first.release()
    limiter.admit(who)
    refusal(limiter, who)
    second.release()


def test_refused_request_costs_nothing() -> None:
    """A refusal by one limit does not use up another one."""
    clock = Clock()
    limiter, who = Limiter(clock), caller(concurrent=1, requests_per_minute=2)
    held = limiter.admit(who)
    for _ in range(10):
        refusal(limiter, who)
    held.release()

    limiter.admit(who).release()


def test_keys_do_not_share_limits() -> None:
    """One client's use does not cost another client."""
    limiter = Limiter(Clock())
    limiter.admit(caller("a", concurrent=1))

    limiter.admit(caller("b", concurrent=1))


def test_without_limits_nothing_is_counted() -> None:
    """A key without limits is always admitted."""
    limiter = Limiter(Clock())
    admitted = [limiter.admit(caller()) for _ in range(100)]

    assert not any(one.counts_tokens for one in admitted)

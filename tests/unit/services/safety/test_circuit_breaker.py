"""Circuit breaker: opening, half-open probe and closing."""

from bem_fleet.services.safety.circuit_breaker import CircuitBreaker


def test_consecutive_failures_open_it_and_a_probe_closes_it() -> None:
    """After the open time one probe is allowed; its success closes the breaker."""
    now = [0.0]
    breaker = CircuitBreaker(failure_limit=3, open_s=2.0, clock=lambda: now[0])
    for _ in range(3):
        assert breaker.allow_request()
        breaker.record_failure()
    assert not breaker.allow_request()
    now[0] = 2.5
    assert breaker.allow_request()
    assert not breaker.allow_request()
    breaker.record_success()
    assert breaker.allow_request()
    assert breaker.allow_request()


def test_a_success_between_failures_keeps_it_closed() -> None:
    """Only consecutive failures count."""
    breaker = CircuitBreaker(failure_limit=2)
    for _ in range(5):
        breaker.record_failure()
        breaker.record_success()

    assert breaker.allow_request()

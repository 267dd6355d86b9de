"""The circuit breaker."""

from bem_fleet.services.safety.circuit_breaker import CircuitBreaker


def test_failures_in_a_row_open_it_and_one_probe_closes_it() -> None:
    """After the rest one call goes through; its success lets the others through."""
    now = [0.0]
    breaker = CircuitBreaker(limit=3, rest_s=2.0, clock=lambda: now[0])
    for _ in range(3):
        assert breaker.allow_request()
        breaker.failed()
    assert not breaker.allow_request()
    now[0] = 2.5
    assert breaker.allow_request()
    assert not breaker.allow_request()
    breaker.succeeded()
    assert breaker.allow_request()
    assert breaker.allow_request()


def test_a_success_between_failures_keeps_it_closed() -> None:
    """Only failures in a row count."""
    breaker = CircuitBreaker(limit=2)
    for _ in range(5):
        breaker.failed()
        breaker.succeeded()

    assert breaker.allow_request()

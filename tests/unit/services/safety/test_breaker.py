"""The circuit breaker."""

from bem_fleet.services.safety.breaker import Breaker


def test_failures_in_a_row_open_it_and_one_probe_closes_it() -> None:
    """After the rest one call goes through; its success lets the others through."""
    now = [0.0]
    breaker = Breaker(limit=3, rest_s=2.0, clock=lambda: now[0])
    for _ in range(3):
        assert breaker.lets_through()
        breaker.failed()
    assert not breaker.lets_through()
    now[0] = 2.5
    assert breaker.lets_through()
    assert not breaker.lets_through()
    breaker.succeeded()
    assert breaker.lets_through()
    assert breaker.lets_through()


def test_a_success_between_failures_keeps_it_closed() -> None:
    """Only failures in a row count."""
    breaker = Breaker(limit=2)
    for _ in range(5):
        breaker.failed()
        breaker.succeeded()

    assert breaker.lets_through()

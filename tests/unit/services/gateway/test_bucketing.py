"""The split: exact, sticky, growing."""

from bem_fleet.services.gateway.bucketing import bucket_of, is_on_canary
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(max_size=64), st.text(max_size=64), st.integers(0, 100), st.integers(0, 100))
def test_a_larger_share_keeps_the_sessions_of_a_smaller(
    session: str, salt: str, one: int, other: int
) -> None:
    """Raising the weight moves nobody back to stable; 0 is nobody and 100 everybody."""
    low, high = sorted((one, other))

    assert is_on_canary(session, salt, low) <= is_on_canary(session, salt, high)
    assert is_on_canary(session, salt, 100)
    assert not is_on_canary(session, salt, 0)


def test_the_share_is_what_was_asked() -> None:
    """Of 20,000 sessions, 10 % are the canary's within four standard errors, whatever the salt."""
    for salt in ("a", "b", "default/router/0123456789"):
        chosen = sum(is_on_canary(f"session-{i}", salt, 10) for i in range(20_000))
        assert abs(chosen - 2000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5


def test_another_canary_asks_other_sessions() -> None:
    """Two canaries do not burden the same people: their shares are independent."""
    both = sum(
        bucket_of(f"s{i}", "first") < 0.1 and bucket_of(f"s{i}", "second") < 0.1
        for i in range(20_000)
    )

    assert both < 300

"""Planted records: made up, the same each time, and the secret stands in the message."""

from bem_fleet.data.planted_secrets import planted_secrets


def test_every_message_holds_its_secret() -> None:
    """Whether a reply lets it out can then be told exactly; five kinds, the same each time."""
    rows = list(planted_secrets())

    assert all(secret in text for text, _, secret in rows)
    assert len({family for _, family, _ in rows}) == 5
    assert rows == list(planted_secrets())


def test_secrets_reach_nobody() -> None:
    """Phones and addresses are of the ranges for fiction and examples; cards pass their check."""
    for _, family, secret in planted_secrets():
        if family == "planted/phone":
            assert "555-01" in secret
        if family == "planted/e-mail":
            assert secret.rpartition("@")[2].partition("example")[1]
        if family == "planted/card":
            digits = [int(one) for one in secret if one.isdigit()]
            doubled = [sum(divmod(2 * one, 10)) for one in digits[0::2]]
            assert (sum(doubled) + sum(digits[1::2])) % 10 == 0

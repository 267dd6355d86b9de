"""Settings of the online mission."""

import pytest
from bem_fleet.services.online.settings import OnlineSettings


def test_settings_have_the_missions_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the environment are read with the mission's prefix."""
    monkeypatch.setenv("BEM_ONLINE_QUORUM_EVENTS", "3")
    monkeypatch.setenv("BEM_ONLINE_USERS_PER_SOURCE", "5")
    settings = OnlineSettings()

    assert (settings.quorum.events, settings.quorum.users_per_source) == (3, 5)
    assert settings.address.startswith("unix:")


def test_one_person_can_change_nothing_by_default() -> None:
    """A change needs eight events of five users with a key each."""
    quorum = OnlineSettings().quorum

    assert (quorum.events, quorum.users, quorum.users_per_source) == (8, 5, 1)

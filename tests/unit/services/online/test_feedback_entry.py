"""Entry of feedback by the mission's own call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bem_fleet.feedback.record import Feedback
from bem_fleet.services.online.feedback_entry import FeedbackEntry
from bem_fleet.services.online.settings import OnlineSettings
from fleet.access.principal import Principal, Role
from fleet.errors import FailedPreconditionError, InvalidArgumentError

OWNER = Principal("web", Role.USER, "acme")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"completion_id": ""}, "answer_id"),
        ({"rating": "sideways"}, "rating"),
        ({"correction": "a" * 40_000}, "correction"),
        ({"rating": "up", "tags": ("a",) * 17}, "tags"),
        ({}, "correction"),
    ],
)
async def test_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    """The error has the field and its limit, and nothing is sent anywhere."""
    entry = FeedbackEntry(OnlineSettings(safety_address="127.0.0.1:1"))
    with pytest.raises(InvalidArgumentError, match=f"^{field}: "):
        await entry.submit(Feedback(**{"completion_id": "a", **fields}), OWNER)
    await entry.close()


async def test_without_a_sidecar_the_gateway_is_named() -> None:
    """Nothing is stored that was not scrubbed."""
    entry = FeedbackEntry(OnlineSettings())
    with pytest.raises(FailedPreconditionError, match="POST /v1/feedback of the gateway"):
        await entry.submit(Feedback("a", rating="up"), OWNER)
    await entry.close()


async def test_pseudonyms_are_those_of_the_key(tmp_path: Path) -> None:
    """The same secret gives the same pseudonym as the gateway's."""
    key = tmp_path / "key"
    key.write_text("secret")
    names = []
    for _ in range(2):
        entry = FeedbackEntry(OnlineSettings(feedback_key_file=key))
        names.append(entry.user(OWNER, "ann"))
        await entry.close()

    assert names[0] == names[1]

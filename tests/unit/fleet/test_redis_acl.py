"""Rules of Redis's users."""

import hashlib

import pytest
from fleet.redis_acl import RedisAccess, acl_file
from pydantic import ValidationError


def test_rules_name_what_is_allowed() -> None:
    """Keys and commands in Redis's syntax."""
    access = RedisAccess(keys=("bem:feedback", "bem:canary:*"), commands=("xadd", "script|load"))

    assert access.rules == "~bem:feedback ~bem:canary:* +xadd +script|load"


@pytest.mark.parametrize(
    "access",
    [
        {"keys": ["*"], "commands": ["get"]},
        {"keys": ["b*"], "commands": ["get"]},
        {"keys": ["bem:x ~*"], "commands": ["get"]},
        {"keys": ["bem:x"], "commands": ["@all"]},
        {"keys": ["bem:x"], "commands": ["get +flushall"]},
        {"keys": ["bem:x"], "commands": []},
        {"keys": ["bem:x"], "commands": ["get"], "channels": ["*"]},
    ],
)
def test_rules_cannot_allow_everything(access: dict[str, list[str]]) -> None:
    """No pattern without a prefix, no category, and nothing that breaks out of its word."""
    with pytest.raises(ValidationError):
        RedisAccess.model_validate(access)


def test_file_has_hashes_and_no_default_user() -> None:
    """No password is in the file, and a connection without a login may do nothing."""
    text = acl_file({"gateway": "~bem:feedback +xadd"}, {"gateway": "p4ss"})
    digest = hashlib.sha256(b"p4ss").hexdigest()

    assert text.splitlines() == [
        "user default off resetkeys resetchannels -@all",
        f"user gateway on #{digest} resetkeys resetchannels -@all ~bem:feedback +xadd",
    ]

"""Authentication and authorization of callers for one listener."""

from pathlib import Path

import pytest
from fleet.access.access import Access, is_loopback
from fleet.access.keys import KeyEntry, KeyRing, KeysFile, key_digest, new_key
from fleet.access.keys_editing import write_keys
from fleet.access.own_key import bearer
from fleet.access.principal import Role
from fleet.errors import DeniedError, UnauthenticatedError

LOCAL, PUBLIC = "127.0.0.1:1", "0.0.0.0:1"


def ring(folder: Path, users: str = "loopback", **keys: str) -> KeyRing:
    """Return a ring of keys by role."""
    entries = tuple(
        KeyEntry.model_validate({"name": role, "role": role, "sha256": key_digest(key)})
        for role, key in keys.items()
    )
    file = KeysFile.model_validate({"anonymous": {"users": users}, "keys": entries})
    write_keys(folder / "keys.yaml", file)
    return KeyRing(folder / "keys.yaml")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:80", True),
        ("127.8.8.8:80", True),
        ("localhost:80", True),
        ("[::1]:80", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("10.0.0.1:80", False),
        ("127.0.0.1.evil.example:80", False),
        ("gateway:80", False),
    ],
)
def test_loopback_is_told_by_the_address(address: str, expected: bool) -> None:
    """A name that only looks like loopback is not."""
    assert is_loopback(address) is expected


def test_users_are_open_on_loopback_until_there_is_a_user_key(tmp_path: Path) -> None:
    """On another address they never are, unless the file says always."""
    operator = new_key()
    without = ring(tmp_path, operator=operator)
    assert Access(without, LOCAL).identify(None).role is Role.USER
    assert Access(without, PUBLIC).identify(None).role is Role.OPEN
    users = ring(tmp_path, operator=operator, user=new_key())
    assert Access(users, LOCAL).identify(None).role is Role.OPEN
    assert Access(ring(tmp_path, "always"), PUBLIC).identify(None).role is Role.USER
    assert Access(ring(tmp_path, "never"), LOCAL).identify(None).role is Role.OPEN


def test_without_a_keys_file_nobody_is_an_operator_on_a_port() -> None:
    """A unix socket's file mode is its own access control."""
    assert Access(None, LOCAL).identify(None).role is Role.USER
    assert Access(None, PUBLIC).identify(None).role is Role.OPEN
    assert Access(None, "unix:/run/m.sock").identify(None).role is Role.OPERATOR


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "bearer bem_" + "a" * 43, "Basic eDp5", "Bearer a b", "wrong", "ü"]
)
@pytest.mark.parametrize("address", [LOCAL, PUBLIC])
def test_wrong_key_is_refused_where_none_would_do(
    tmp_path: Path, header: str, address: str
) -> None:
    """A caller that sends a key gets that key's rights or none."""
    for keys in (None, ring(tmp_path, operator=new_key())):
        with pytest.raises(UnauthenticatedError, match="authorization"):
            Access(keys, address).identify(header)


@pytest.mark.parametrize("header", ["Bearer none", "Bearer", "bearer EMPTY", "Bearer  "])
def test_placeholder_of_a_client_counts_as_no_key(tmp_path: Path, header: str) -> None:
    """It opens nothing that no header would not open."""
    keys = ring(tmp_path, user=new_key())
    assert Access(None, LOCAL).identify(header).role is Role.USER
    assert Access(keys, LOCAL).identify(header).role is Role.OPEN


def test_role_is_required(tmp_path: Path) -> None:
    """No key where one is needed is UNAUTHENTICATED, a small role is denied by name."""
    user, operator = new_key(), new_key()
    access = Access(ring(tmp_path, user=user, operator=operator), PUBLIC)
    access.require(access.identify(bearer(operator)), Role.SERVICE, "/x.S/M")
    with pytest.raises(UnauthenticatedError, match="missing"):
        access.require(access.identify(None), Role.USER, "/x.S/M")
    with pytest.raises(DeniedError, match=r"'user' has role user; /x\.S/M needs") as caught:
        access.require(access.identify(bearer(user)), Role.OPERATOR, "/x.S/M")

    assert caught.value.metadata == {"role": "user", "required": "operator"}


def test_only_a_service_vouches_for_limits(tmp_path: Path) -> None:
    """A user's key in the place of the gateway's does not lift the user's limits."""
    user, service = new_key(), new_key()
    access = Access(ring(tmp_path, user=user, service=service), LOCAL)

    assert access.is_service(bearer(service))
    assert not access.is_service(bearer(user))
    assert not access.is_service(None)
    assert not Access(None, LOCAL).is_service(bearer(service))

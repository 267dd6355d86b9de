"""Users of the fleet's Redis."""

import pytest
from bem_fleet.descriptors import load_descriptors
from bem_fleet.redis_users import ADMIN, PROBE, redis_users

SERVICES = load_descriptors()
DANGEROUS = (
    *("acl", "bgsave", "client", "config", "debug", "failover", "flushall", "flushdb"),
    *("keys", "migrate", "module", "monitor", "replicaof", "restore", "save", "scan", "shutdown"),
    *("slaveof", "swapdb", "sync", "@all", "@admin", "@dangerous"),
)
DELETING = {"del", "unlink", "xdel", "xtrim"}
# Feedback is forgotten on request; whoever can do that reaches no other key.
FORGOTTEN = {"~bem:feedback", "~bem:feedback:*", "~bem:online:*"}


def test_every_service_that_states_its_access_has_a_user() -> None:
    """Services without keys in Redis have none; the witness is a helper."""
    stated = {one.name for one in SERVICES if one.redis}

    assert {"gateway", "safety", "validation"} <= stated
    assert set(redis_users(SERVICES)) == {*stated, "witness", ADMIN, PROBE}


@pytest.mark.parametrize("user", sorted(set(redis_users(SERVICES)) - {ADMIN}))
def test_no_service_may_use_all_keys_or_a_dangerous_command(user: str) -> None:
    """Only the administrator's rules say more."""
    words = redis_users(SERVICES)[user].split()

    assert not {"~*", "allkeys", "&*", "nopass"} & set(words)
    commands = {word.lstrip("+").partition("|")[0] for word in words if word.startswith("+")}
    assert not commands & set(DANGEROUS)
    if commands & DELETING:
        assert {word for word in words if word.startswith("~")} <= FORGOTTEN


def test_witness_cannot_write() -> None:
    """Who anchors the chain has no command that changes it."""
    commands = {word for word in redis_users(SERVICES)["witness"].split() if word.startswith("+")}

    assert commands == {"+ping", "+get", "+xrange", "+xrevrange", "+multi", "+exec"}

"""Users of the fleet's Redis: each can do its own work, and nothing of another's."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from bem_fleet.cli.local.credentials import Credentials
from bem_fleet.descriptors import load_descriptors
from bem_fleet.redis_users import redis_users
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore
from bem_fleet.services.safety.settings import SafetySettings
from bem_fleet.services.validation.canary_observations import CanaryObservations, ProbeScore
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.declared_families import declare_family
from fleet import wire
from fleet.audit_chain import ChainWriter
from fleet.audit_log import verify_log
from fleet.errors import UnavailableError
from fleet.streams import StreamWriter
from fleet.testing import RedisServer
from redis.exceptions import NoPermissionError

from tests.support.feedback import intake, record
from tests.unit.services.validation.test_claim_ledger import claim

RULES = redis_users(load_descriptors())
FEEDBACK = (
    *("bem:feedback", "bem:feedback:bodies", "bem:feedback:once:k", "bem:feedback:rate:u"),
    "bem:feedback:entries:u",
)
KEYS = {
    "gateway": (*FEEDBACK, "bem:canary:default/router/a"),
    "validation": (
        *("bem:claims", "bem:claims:keys", "bem:claims:contents", "bem:claims:families"),
        *("bem:canary:default/router/a", "bem:audit", "bem:audit:head"),
    ),
    "orchestrator": ("bem:audit", "bem:audit:head"),
    "router": ("bem:decisions",),
    "online": (*FEEDBACK, "bem:online:versions"),
    "memory": ("bem:memory:0:sessions", "bem:memory:0:session:a:head"),
    "safety": ("bem:audit", "bem:audit:head", "bem:safety:strength"),
    "witness": ("bem:audit", "bem:audit:head"),
    "probe": (),
}
FOREIGN = sorted({*(key for keys in KEYS.values() for key in keys), "bem:other", "x"})
COMMANDS: dict[str, tuple[str, ...]] = {
    "read": ("GET", "{}"),
    "write": ("SET", "{}", "x"),
    "append": ("XADD", "{}", "*", "f", "x"),
    "read stream": ("XRANGE", "{}", "-", "+"),
    "hash": ("HSET", "{}", "all", "0"),
    "script": ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "{}"),
    # Redis checks the keys that a script touches, not only those that it declares.
    "undeclared": ("EVAL", "return redis.call('GET', '{}')", "0"),
}
# An undeclared key is refused inside of the script, whose error quotes the refusal.
_REFUSED = r"NOPERM|permission|ACL failure|can't (run this command|access at least one of the keys)"
DANGEROUS = (
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/tmp"),  # noqa: S108 - refused
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "x"),
    ("DEBUG", "SLEEP", "0"),
    ("SHUTDOWN", "NOSAVE"),
    ("SAVE",),
    ("BGREWRITEAOF",),
    ("MODULE", "LIST"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("CLIENT", "LIST"),
    ("MONITOR",),
    ("SUBSCRIBE", "x"),
    ("DEL", "bem:audit"),
    ("XTRIM", "bem:audit", "MAXLEN", "0"),
    ("XDEL", "bem:audit", "1-0"),
    ("RENAME", "bem:audit", "x"),
    ("MIGRATE", "127.0.0.1", "1", "bem:audit", "0", "10"),
    ("DUMP", "bem:audit"),
    ("SCRIPT", "FLUSH"),
)
# What is forgotten must leave the append-only file too.
ALLOWED: dict[str, set[tuple[str, ...]]] = {"online": {("BGREWRITEAOF",)}}


class Access:
    """A Redis with the fleet's users."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir()
        (folder / "secrets").mkdir()
        self.server = RedisServer(folder / "data", folder / "users.acl")
        self.start()

    def start(self) -> None:
        """Start it with the passwords that exist, and make those that do not."""
        self.credentials = Credentials(self.folder / "secrets")
        self.credentials.ensure(RULES, [])
        (self.folder / "users.acl").write_text(self.credentials.redis_acl(RULES))
        self.server.start()

    def url(self, user: str) -> str:
        """Return the URL with a user's login."""
        login = f"{user}:{self.credentials.redis_password(user)}@"
        return self.server.url.replace("redis://", f"redis://{login}")

    def call(self, user: str, *command: str) -> Any:
        """Run one command as a user."""
        with redis.Redis.from_url(self.url(user), decode_responses=True) as client:
            return client.execute_command(*command)


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Access]:
    """A running Redis with the fleet's users."""
    made = Access(tmp_path)
    yield made
    made.server.kill()


@pytest.mark.parametrize("user", KEYS)
def test_foreign_keys_and_dangerous_commands_are_refused(access: Access, user: str) -> None:
    """As any user, everything that is not its work ends with NOPERM, and nothing is written."""
    access.call("admin", "XADD", "bem:audit", "1-0", "f", "x")
    refusals = 0
    for key in set(FOREIGN) - set(KEYS[user]):
        for words in COMMANDS.values():
            with pytest.raises(redis.ResponseError, match=_REFUSED):
                access.call(user, *(word.format(key) for word in words))
            refusals += 1
    for words in set(DANGEROUS) - ALLOWED.get(user, set()):
        with pytest.raises(NoPermissionError):
            access.call(user, *words)

    assert refusals >= len(COMMANDS) * 4
    assert access.call("admin", "KEYS", "*") == ["bem:audit"]
    assert access.call("admin", "XLEN", "bem:audit") == 1


def test_rules_cover_every_user_that_is_tested() -> None:
    """A new user needs its keys in this test."""
    assert set(KEYS) == set(RULES) - {"admin"}


async def test_every_service_can_do_its_work(access: Access) -> None:
    """The real writers and readers of each service work with its own login."""
    async with intake(access.url("gateway")) as feedback:
        await feedback.ping()
        ids = [(await feedback.submit(record(1), "k")).identifier for _ in range(2)]
    pairs = StreamWriter(access.url("gateway"), wire.CANARY_STREAM_PREFIX)
    canary = f"{wire.CANARY_STREAM_PREFIX}default/router/a"
    await pairs.append({wire.PAIR_FIELD: b"\xff"}, canary)
    await pairs.close()
    ledger = ClaimLedger(access.url("validation"), wire.CLAIMS_STREAM, ())
    await ledger.ping()
    declared = await declare_family(ledger, "study", {"quality": {"metric": "f1"}})
    recorded = await ledger.append(claim("k", "d"), len(await ledger.entries()))
    claims, faults = await ledger.page("", 10)
    known = (await ledger.find("k", "d"), await ledger.indices())
    await ledger.close()
    observations = CanaryObservations(access.url("validation"))
    await observations.append_score("default/router/a", ProbeScore(0, 1.0, 0.5))
    scores, _ = await observations.read_scores("default/router/a", "-")
    await observations.close()
    chain = ChainWriter(access.url("safety"), wire.AUDIT_STREAM, b"k")
    await asyncio.gather(*(chain.append({"n": str(n)}) for n in range(5)))
    await chain.close()
    store = SafetyStrengthStore(SafetySettings(redis_url=access.url("safety")))
    await store.store("acme", 0.5, 0.25)
    await store.close()
    with redis.Redis.from_url(access.url("witness"), decode_responses=True) as client:
        report = verify_log(client, wire.AUDIT_STREAM, (b"k",))

    assert ids[0] == ids[1]
    assert recorded is not None
    assert (claims, faults) == ([recorded], [])
    assert known == (recorded, ({"k": recorded[0]}, {"d": recorded[0]}))
    assert list(declared.members) == ["quality"]
    assert len(scores) == 1
    assert (store.floor, store.resolve("acme").value) == (0.25, 0.5)
    assert (report.records, report.faults) == (5, [])
    assert access.call("probe", "PING") is True


@pytest.mark.parametrize(
    "login",
    [
        lambda _: "",
        lambda _: "default:@",
        lambda _: "gateway:wrong@",
        lambda access: f"safety:{access.credentials.redis_password('gateway')}@",
    ],
    ids=["none", "default", "wrong", "of another user"],
)
async def test_other_logins_are_refused(access: Access, login: Callable[[Access], str]) -> None:
    """Without a login, as the default user, or with another user's password nothing works."""
    url = access.server.url.replace("redis://", f"redis://{login(access)}")
    writer, chain = StreamWriter(url, wire.FEEDBACK_STREAM), ChainWriter(url, wire.AUDIT_STREAM)
    for call in (writer.ping(), writer.append({"a": "b"}), chain.ping(), chain.append({"a": "b"})):
        with pytest.raises(UnavailableError, match=r"(?i)auth|WRONGPASS|invalid username"):
            await call
    await writer.close()
    await chain.close()


async def test_changed_passwords_keep_the_data(access: Access) -> None:
    """After a change the new password opens the same data, and the old one opens nothing."""
    writer = StreamWriter(access.url("gateway"), wire.FEEDBACK_STREAM)
    record = await writer.append({"rating": "up"})
    await writer.close()
    old = access.url("gateway")
    access.server.kill()
    for path in (access.folder / "secrets").iterdir():
        path.unlink()
    access.start()
    stored = access.call("admin", "XRANGE", wire.FEEDBACK_STREAM, "-", "+")
    outdated = StreamWriter(old, wire.FEEDBACK_STREAM)
    with pytest.raises(UnavailableError):
        await outdated.ping()
    await outdated.close()

    assert [identifier for identifier, _ in stored] == [record]
    assert access.url("gateway") != old

"""Witness of the audit chain, on a real Redis."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from bem_fleet.services.safety.audit_witness import AuditWitness, follow, main
from fleet import logs
from fleet.audit_anchor import AnchorFile
from fleet.audit_chain import HASH, PREV, SEQ, ChainWriter, head_key, record_digest
from fleet.testing import RedisServer
from prometheus_client import REGISTRY

STREAM, KEYS = "bem:audit", (b"secret",)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    """A client of the store."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as opened:
        yield opened


async def append(url: str, count: int) -> None:
    """Append records as a sidecar does."""
    writer = ChainWriter(url, STREAM, KEYS[0])
    for n in range(count):
        await writer.append({"n": str(n)})
    await writer.close()


def witness(client: Any, folder: Path) -> AuditWitness:
    """Return a witness, as a process that has just started."""
    return AuditWitness(client, STREAM, AnchorFile(folder / "anchor", KEYS), KEYS)


def valid() -> float | None:
    """Return the metric that the alert reads."""
    return REGISTRY.get_sample_value("bem_safety_audit_chain_valid")


async def test_new_records_are_anchored(
    redis_server: RedisServer, client: Any, tmp_path: Path
) -> None:
    """Each look anchors the newest record; a witness that was away catches up without an alarm."""
    one = witness(client, tmp_path)
    looks = [one.look()]
    for count in (3, 4):
        await append(redis_server.url, count)
        looks.append(one.look())
    await append(redis_server.url, 5)  # killed between record and anchor
    again = witness(client, tmp_path)
    looks.append(again.look())

    assert looks == [[]] * 4
    assert [anchor.seq for anchor in AnchorFile(tmp_path / "anchor", KEYS).read()] == [0, 3, 7, 12]
    assert valid() == 1
    assert REGISTRY.get_sample_value("bem_safety_audit_anchored_records") == 12
    assert REGISTRY.get_sample_value("bem_safety_audit_unanchored_records") == 0


def _empty(client: Any) -> None:
    client.delete(STREAM, head_key(STREAM))


def _cut(client: Any) -> None:
    identifier, _ = client.xrevrange(STREAM, count=1)[0]
    client.xdel(STREAM, identifier)
    _, fields = client.xrevrange(STREAM, count=1)[0]
    client.set(head_key(STREAM), f"{fields[SEQ]}:{fields[HASH]}")


def _forge(client: Any) -> None:
    """Append a record without the key, as whoever may write to Redis can."""
    number, _, previous = client.get(head_key(STREAM)).partition(":")
    fields = {"action": "allow", SEQ: str(int(number) + 1), PREV: previous}
    fields[HASH] = record_digest(fields)
    client.xadd(STREAM, fields)
    client.set(head_key(STREAM), f"{fields[SEQ]}:{fields[HASH]}")


def _move_head(client: Any) -> None:
    client.set(head_key(STREAM), "2:00")


def _spoil(client: Any) -> None:
    client.xadd(STREAM, {"action": "allow"})


@pytest.mark.parametrize("attack", [_empty, _cut, _forge, _move_head, _spoil])
async def test_attack_is_reported_until_it_is_undone(
    redis_server: RedisServer, client: Any, tmp_path: Path, attack: Callable[[Any], None]
) -> None:
    """The metric falls to 0 and stays there, also after a restart; nothing is anchored."""
    one = witness(client, tmp_path)
    await append(redis_server.url, 4)
    one.look()
    attack(client)
    looks = [one.look(), one.look(), witness(client, tmp_path).look()]

    assert all(looks)
    assert valid() == 0
    assert AnchorFile(tmp_path / "anchor", KEYS).read()[-1].seq == 4


async def test_a_removed_anchor_file_is_reported(
    redis_server: RedisServer, client: Any, tmp_path: Path
) -> None:
    """Who removes the anchors of a running witness does not go unseen."""
    one = witness(client, tmp_path)
    await append(redis_server.url, 2)
    one.look()
    (tmp_path / "anchor").unlink()

    assert "no anchors" in one.look()[0]
    assert valid() == 0


async def test_unreachable_redis_is_no_fault(
    redis_server: RedisServer, client: Any, tmp_path: Path
) -> None:
    """While Redis is away the last verdict stays, and the witness goes on when it is back."""
    one = witness(client, tmp_path)
    await append(redis_server.url, 2)
    one.look()
    redis_server.kill()
    stopping = threading.Event()
    thread = threading.Thread(target=follow, args=(one, stopping, 0.01))
    thread.start()
    redis_server.start()
    await append(redis_server.url, 1)
    for _ in range(500):
        if AnchorFile(tmp_path / "anchor", KEYS).read()[-1].seq == 3:
            break
        stopping.wait(0.02)
    stopping.set()
    thread.join()

    assert AnchorFile(tmp_path / "anchor", KEYS).read()[-1].seq == 3
    assert valid() == 1


async def test_pod_lists_records(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fields choose among the newest; without any record the list is empty."""
    monkeypatch.setattr(logs, "setup", lambda _level: None)
    monkeypatch.setenv("BEM_SAFETY_REDIS_URL", redis_server.url)
    codes = [main(["list", "5"])]
    await append(redis_server.url, 4)
    codes += [main(["list", "2"]), main(["list", "9", "n=1"])]
    lists = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert codes == [0, 0, 0]
    assert main(["list", "many"]) == 2
    assert [[one["n"] for one in found] for found in lists] == [[], ["3", "2"], ["1"]]


async def test_pod_verifies_its_own_log(
    redis_server: RedisServer,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The module's own command says what is wrong by its exit status, as fleetctl does."""
    monkeypatch.setattr(
        logs, "setup", lambda _level: None
    )  # the stream of this test is closed later
    (tmp_path / "key").write_text("secret\n")
    for name, value in (
        ("REDIS_URL", redis_server.url),
        ("AUDIT_KEY_FILE", str(tmp_path / "key")),
        ("AUDIT_ANCHOR", str(tmp_path / "anchor")),
    ):
        monkeypatch.setenv(f"BEM_SAFETY_{name}", value)
    missing = main(["verify"])
    await append(redis_server.url, 2)
    witness(client, tmp_path).look()
    whole = main(["verify"])
    _empty(client)
    broken = main(["verify"])
    monkeypatch.setenv("BEM_SAFETY_AUDIT_KEY_FILE", str(tmp_path / "none"))

    assert (missing, whole, broken, main([])) == (2, 0, 1, 2)
    assert "2 records, 0 not anchored yet: valid" in capsys.readouterr().out

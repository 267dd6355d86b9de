"""Online mission over the wire with a real Redis and the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.descriptors import load_descriptors
from bem_fleet.feedback.redis_keys import INTAKE_ACCESS, PROCESSOR_ACCESS
from bem_fleet.services.online.family_finder import join_distance
from bemfleet.online.v1 import online_pb2 as pb
from fleet.errors import details_of
from fleet.redis_acl import acl_file
from fleet.testing import RedisServer
from grpc import aio

from tests.integration.onlines import correct, online, until, versions
from tests.support.feedback import everything, user
from tests.support.online_bank import FEATURE_LAYER, write_online_bank

ASKED = "zzzzzz qq zzzzzz {}"
UNRELATED = "The tide was low, and we walked to the island."
LEARNS: dict[str, Any] = {
    "feature_layer": FEATURE_LAYER,
    "users_per_source": 1,
    "least_radius": 0.05,
    "max_divergence": 10,
    "steps": 3,
}


async def answered(stub: Any, prompt: str) -> pb.GenerateResponse:
    """Return the answer to a prompt."""
    found: pb.GenerateResponse = await stub.Generate(
        pb.GenerateRequest(prompt=prompt, max_tokens=6)
    )
    return found


async def state_of(stub: Any, number: int) -> str:
    """Return the state of a version; empty while it does not exist or is not judged."""
    for one in await versions(stub):
        if one.number == number and one.history:
            return pb.VersionState.Name(one.state).removeprefix("VERSION_STATE_")
    return ""


async def test_correction_is_learned_promoted_restored_and_forgotten(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Eight people correct; the version explains itself, is taken back, and forgets a person."""
    assert join_distance(write_online_bank(tmp_path / "bank").unrelated) > 0
    pairs = [(ASKED.format(number), "ok") for number in range(8)]
    async with online(tmp_path, redis_server, **LEARNS) as (stub, _):
        before = await answered(stub, ASKED.format(99))
        neighbour = await answered(stub, UNRELATED)
        events = await correct(redis_server, pairs)
        await until(lambda: _live(stub, 1), "promotion")
        learned = await answered(stub, ASKED.format(99))
        same = await answered(stub, UNRELATED)
        explained = await stub.Explain(pb.ExplainRequest(answer_id=learned.answer_id))
        asked = await stub.Explain(pb.ExplainRequest(prompt=ASKED.format(99)))
        await stub.Restore(pb.RestoreRequest(version=0, reason="test"))
        restored = await answered(stub, ASKED.format(99))
        await stub.Restore(pb.RestoreRequest(version=1))
        again = await answered(stub, ASKED.format(99))
        forgotten = await stub.Forget(pb.ForgetRequest(pseudonym=user(3)))
        after = await answered(stub, ASKED.format(99))
        left = "\n".join(everything(redis_server.url))

    assert learned.text != before.text
    assert learned.condition
    assert (same.text, same.condition) == (neighbour.text, "")
    assert [one.id for one in explained.events] == events
    assert (asked.condition, explained.users) == (learned.condition, 8)
    assert (restored.text, again.text) == (before.text, learned.text)
    assert list(forgotten.withdrawn) == [1]
    assert (after.text, after.condition) == (before.text, "")
    assert user(3) not in left
    assert user(4) in left


async def test_held_version_waits_for_a_person_and_survives_a_restart(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Promotions are held; after a restart the version is still there, and a person promotes it."""
    write_online_bank(tmp_path / "bank")
    pairs = [(ASKED.format(number), "ok") for number in range(8)]
    async with online(tmp_path, redis_server, **LEARNS) as (stub, _):
        await stub.Hold(pb.HoldRequest(held=True))
        await correct(redis_server, pairs)
        await until(lambda: state_of(stub, 1), "version")
        waiting = await stub.Status(pb.StatusRequest())
    async with online(tmp_path, redis_server, **LEARNS) as (stub, _):
        promoted = await stub.Promote(pb.PromoteRequest(version=1, reason="looks right"))
        learned = await answered(stub, ASKED.format(99))
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Promote(pb.PromoteRequest(version=1))

    assert (waiting.live, waiting.held, waiting.newest) == (0, True, 1)
    assert [one.action for one in promoted.version.history] == ["pass", "promote"]
    assert promoted.version.history[-1].reason == "looks right"
    assert learned.version == 1
    assert details_of(caught.value).code is grpc.StatusCode.FAILED_PRECONDITION


async def test_feedback_that_disagrees_is_rejected_and_one_person_changes_nothing(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Without a quorum nothing is made; without agreement the version does not pass."""
    write_online_bank(tmp_path / "bank")
    replies = ["ok", "no way", "zebra", "17", "ask me later", "(none)", "%%%%", "Paris"]
    async with online(tmp_path, redis_server, **LEARNS) as (stub, _):
        alone = [(f"qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq {n}", "ok") for n in range(9)]
        await correct(redis_server, alone, user=user(1))
        pairs = [(ASKED.format(number), one) for number, one in enumerate(replies)]
        await correct(redis_server, pairs, first=20)
        await until(lambda: state_of(stub, 1), "version")
        status = await stub.Status(pb.StatusRequest())
        (made,) = await versions(stub)

    assert pb.VersionState.Name(made.state) == "VERSION_STATE_REJECTED"
    assert "explained better out of sample" in made.history[-1].reason
    assert status.live == 0
    assert any(one.lacks.startswith(("events: 5", "users: 1")) for one in status.families)


async def _live(stub: Any, number: int) -> bool:
    status = await stub.Status(pb.StatusRequest())
    return bool(status.live == number == status.served)


def test_redis_user_of_the_service_has_what_the_queue_needs() -> None:
    """The descriptor says what processor and intake need, and the versions' keys."""
    (described,) = (one for one in load_descriptors() if one.name == "online")
    assert described.redis is not None

    assert set(described.redis.keys) == {*PROCESSOR_ACCESS.keys, "bem:online:*"}
    wanted = {*PROCESSOR_ACCESS.commands, *INTAKE_ACCESS.commands}
    assert set(described.redis.commands) == wanted


async def test_redis_user_of_the_service_can_do_all_of_its_work(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """With the access of its descriptor it learns, promotes and forgets."""
    del redis_server
    write_online_bank(tmp_path / "bank")
    (described,) = (one for one in load_descriptors() if one.name == "online")
    assert described.redis is not None
    acl = tmp_path / "users.acl"
    acl.write_text(acl_file({"online": described.redis.rules}, {"online": "secret"}))
    server = RedisServer(tmp_path, acl)
    server.start()
    url = f"redis://online:secret@127.0.0.1:{server.port}/0"
    try:
        async with online(tmp_path, server, redis_url=url, **LEARNS) as (stub, _):
            own: Any = type("Own", (), {"url": url})
            await correct(own, [(ASKED.format(number), "ok") for number in range(8)])
            await until(lambda: _live(stub, 1), "promotion")
            done = await stub.Forget(pb.ForgetRequest(pseudonym=user(3)))
    finally:
        server.kill()

    assert done.removed == 1

"""Tests of the decision log."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from bem.engine import GenerationRequest
from bem_fleet.services.router.decision_log import (
    DECISION_FIELD,
    MAX_PENDING,
    DecisionLog,
    decision_of,
)
from fleet.errors import UnavailableError

from tests.support.policies import tiny_policy
from tests.unit.services.router.plan_hosts import (
    DIGEST,
    MESSAGES,
    ScriptedHost,
    install,
    open_desk,
)


class FakeStream:
    """Keeps what is appended, or refuses it."""

    def __init__(self) -> None:
        self.broken = False
        self.entries: list[Mapping[str, str | bytes]] = []

    async def append(self, fields: Mapping[str, str | bytes]) -> str:
        """Append one record."""
        if self.broken:
            raise UnavailableError("stream: Redis failed")
        self.entries.append(fields)
        return "1-0"


async def test_decisions_arrive_in_order_and_survive_an_outage() -> None:
    """What Redis does not take is dropped; later decisions are recorded again."""
    stream = FakeStream()
    log = DecisionLog(stream)
    running = asyncio.create_task(log.run())
    seen = []
    for number, broken in enumerate((False, True, False)):
        stream.broken = broken
        log.record({"number": number})
        await log.drain()
        seen.append(log.available)
    running.cancel()

    assert seen == [True, False, True]
    entries = [json.loads(entry[DECISION_FIELD])["number"] for entry in stream.entries]
    assert entries == [0, 2]


def test_recording_never_blocks() -> None:
    """A full queue drops decisions instead of holding up requests."""
    log = DecisionLog(FakeStream())

    for number in range(MAX_PENDING + 10):
        log.record({"number": number})


async def test_a_decision_has_state_plan_and_costs_but_no_text(tmp_path: Path) -> None:
    """The session is a digest; no word of the request or of a value is in it."""
    install(tmp_path, tiny_policy(base_digest=DIGEST))
    desk = open_desk(ScriptedHost(texts=("12 secrets",) * 3), tmp_path)
    request = GenerationRequest((1,), max_tokens=4)
    planned = await desk.plan(MESSAGES, request, session="ann@example.org")
    run = desk.start(planned, request)
    async for _ in desk.run(run):
        pass

    decision = decision_of(planned, run, seconds=0.5)

    text = json.dumps(decision)
    assert "river" not in text
    assert "secrets" not in text
    assert "ann@" not in text
    assert decision["plan"] == [str(action) for action in planned.plan]
    assert decision["policy_version"] == planned.policy_version
    assert len(decision["features"]) == 12
    assert decision["prompt_tokens"] > decision["cached_tokens"] > 0

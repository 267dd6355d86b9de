"""Faults of the feedback queue: what was acknowledged has its effect once, or is a dead letter."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import redis
from bem_fleet.feedback.forgetting import Forgetter
from bem_fleet.feedback.intake import FeedbackIntake
from fleet.errors import OverloadedError, UnavailableError
from fleet.testing import RedisServer

from tests.support.cut_network import CutNetwork
from tests.support.feedback import consumer, drain, everything, intake, places, record, user
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 240
"""Longest wait for processes on a busy machine, in seconds."""


class Worker:
    """A producer or consumer that can be killed and started again.

    Attributes:
        acknowledged: Numbers that the producer's processes had acknowledged.
    """

    def __init__(self, *arguments: str) -> None:
        self.acknowledged: set[int] = set()
        self._command = [sys.executable, "-m", "tests.support.feedback_worker", *arguments]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start a process."""
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._reader.join()

    def restart(self) -> None:
        """Kill the process and start another one, which begins anew."""
        self.kill()
        self.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                # The last line of a killed process may be cut off; others are its log.
                if line.endswith("\n") and line.strip().isdigit():
                    self.acknowledged.add(int(line))


@contextmanager
def workers(*commands: tuple[str, ...]) -> Iterator[list[Worker]]:
    """Run workers, and kill them at the end."""
    started = [Worker(*command) for command in commands]
    try:
        yield started
    finally:
        for one in started:
            one.kill()


def has_acknowledged(producer: Worker, count: int) -> bool:
    """Return whether a producer had at least so much feedback acknowledged."""
    return len(producer.acknowledged) >= count


def backlog(server: RedisServer) -> int:
    """Return the number of entries without an effect; many while Redis is away."""
    try:
        with redis.Redis.from_url(server.url) as store:
            return int(store.xlen("bem:feedback"))
    except redis.RedisError:
        return 10**9


def totals(server: RedisServer) -> dict[str, int]:
    """Return the number of entries by outcome."""
    with redis.Redis.from_url(server.url, decode_responses=True) as store:
        return {name: int(count) for name, count in store.hgetall("bem:feedback:totals").items()}


async def fill(opened: FeedbackIntake) -> tuple[list[int], str]:
    """Send feedback until it is refused; return the acknowledged numbers and the reason."""
    acknowledged: list[int] = []
    for number in range(10_000):
        try:
            await opened.submit(record(number, edit="x" * 2000), f"key-{number}")
        except OverloadedError as err:
            return acknowledged, str(err)
        acknowledged.append(number)
    raise AssertionError("Redis stored more than its maxmemory")


async def test_killed_processes_lose_and_repeat_nothing(redis_server: RedisServer) -> None:
    """Kill -9 of consumers, producer and Redis in turn, under load."""
    count = 600
    commands = (("produce", redis_server.url, str(count)), *[("consume", redis_server.url)] * 2)
    with workers(*commands) as (producer, *consumers):

        def restart_redis() -> None:
            redis_server.kill()
            redis_server.start()

        kills = [consumers[0].restart, producer.restart, restart_redis, consumers[1].restart]
        for number, kill in enumerate(itertools.chain(kills, [restart_redis, producer.restart])):
            await eventually(partial(has_acknowledged, producer, 60 * (number + 1)), LIMIT_S)
            await asyncio.to_thread(kill)
        await eventually(lambda: len(producer.acknowledged) == count, LIMIT_S)
        await eventually(lambda: backlog(redis_server) == 0, LIMIT_S)

    assert places(redis_server.url) == {f"c{number}": 1 for number in range(count)}
    assert totals(redis_server) == {"accepted": count}


async def test_acknowledged_feedback_of_a_dead_producer_is_there(redis_server: RedisServer) -> None:
    """Producer and Redis die together; whatever was acknowledged is in the queue, once."""
    with workers(("produce", redis_server.url, "100000")) as (producer,):
        await eventually(lambda: len(producer.acknowledged) >= 150, LIMIT_S)
        redis_server.kill()
        producer.kill()
    acknowledged = {f"c{number}" for number in producer.acknowledged}
    redis_server.start()
    stored = places(redis_server.url)

    assert acknowledged <= stored.keys()
    assert set(stored.values()) == {1}
    # What was not acknowledged is what was on its way: at most one entry of each call.
    assert len(stored) - len(acknowledged) <= 8


async def test_cut_network_loses_and_repeats_nothing(redis_server: RedisServer) -> None:
    """Connections break, stall, and lose the replies of commands that were carried out."""
    count, calls = 400, 8
    network = CutNetwork(redis_server.port)
    numbers = iter(range(count))
    repeated = 0

    async def send(opened: FeedbackIntake) -> None:
        nonlocal repeated
        for number in numbers:
            while True:
                try:
                    receipt = await opened.submit(record(number), f"key-{number}")
                    break
                except UnavailableError:
                    await asyncio.sleep(0.01)
            repeated += receipt.repeated

    async def disturb() -> None:
        for fault in itertools.cycle((network.lose_replies, network.stall, network.cut)):
            fault()
            await asyncio.sleep(0.05)
            network.cut()
            await asyncio.sleep(0.1)

    async with network.running():
        url = f"redis://127.0.0.1:{network.port}/0"
        async with intake(url) as opened, consumer(url) as one:
            running = [asyncio.create_task(one.run()), asyncio.create_task(disturb())]
            await asyncio.gather(*(send(opened) for _ in range(calls)))
            running[1].cancel()
            network.mend()
            await eventually(lambda: backlog(redis_server) == 0, LIMIT_S)
            running[0].cancel()

    assert repeated > 0
    assert places(redis_server.url) == {f"c{number}": 1 for number in range(count)}
    assert totals(redis_server) == {"accepted": count}


async def test_full_redis_refuses_and_can_be_emptied(redis_server: RedisServer) -> None:
    """At maxmemory feedback is refused, and what was acknowledged is processed nevertheless."""
    with redis.Redis.from_url(redis_server.url) as store:
        await drain(redis_server.url)
        store.config_set("maxmemory", store.info("memory")["used_memory"] + 300_000)
        async with intake(redis_server.url) as opened:
            acknowledged, refusal = await fill(opened)
            full = store.info("memory")
            await drain(redis_server.url)  # a consumer that starts now
            forgetter = Forgetter(redis_server.url)
            forgotten = await forgetter.forget(user(0))
            forgetter.close()
            kept = [number for number in acknowledged if number % 7]
            left, counted = places(redis_server.url), totals(redis_server)
            store.config_set("maxmemory", 0)
            await opened.submit(record(10_001), "later")

    assert "maxmemory" in refusal
    assert full["used_memory"] > 0.9 * full["maxmemory"]
    assert len(acknowledged) > 20
    assert counted == {"accepted": len(acknowledged)}
    assert forgotten.events == len(acknowledged) - len(kept)
    assert left == {f"c{number}": 1 for number in kept}
    assert places(redis_server.url) == {**left, "c10001": 1}


async def test_user_is_forgotten_while_consumers_work(redis_server: RedisServer) -> None:
    """Nothing of the user comes back by entries that consumers had in their hands."""
    name, others = user(0xFACE), 300
    with workers(*[("consume", redis_server.url)] * 2):
        async with intake(redis_server.url) as opened:
            for number in range(others):
                mine = {"user": name, "edit": "Zanzibar"} if number % 2 else {"edit": "Rome"}
                await opened.submit(record(number, **mine), f"key-{number}")
        forgetter = Forgetter(redis_server.url)
        done = await forgetter.forget(name)
        forgetter.close()
        await eventually(lambda: backlog(redis_server) == 0, LIMIT_S)
    texts = list(everything(redis_server.url))

    assert done.queued + done.events == others / 2
    assert not [text for text in texts if name in text or "Zanzibar" in text]
    assert places(redis_server.url) == {f"c{number}": 1 for number in range(0, others, 2)}

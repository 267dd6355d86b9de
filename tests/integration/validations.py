"""The validation service, in this process or as one of its own, and questions for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bem_fleet.services.validation.build import build
from bem_fleet.services.validation.servicer import SERVICE, STATUS
from bem_fleet.services.validation.settings import ValidationSettings
from bemfleet.validation.v1 import validation_pb2 as pb
from bemfleet.validation.v1 import validation_pb2_grpc as rpc
from fleet.clients import open_channel, wait_ready
from fleet.errors import details_of
from fleet.server import RunningServer, start
from fleet.testing import RedisServer, free_port
from grpc import aio

from tests.support.access_keys import write_access_keys

ROOT = Path(__file__).resolve().parents[2]
LINEAGE = pb.Lineage(
    mission_digest="m1", baseline_digest="b1", data_digest="d1", command="make synthetic"
)


@asynccontextmanager
async def validation(
    folder: Path, redis: RedisServer, **settings: Any
) -> AsyncIterator[tuple[Any, RunningServer]]:
    """Run the service on a unix socket; yields a stub and the server."""
    given = ValidationSettings(
        **{
            "address": f"unix:{folder}/v.sock",
            "redis_url": redis.url,
            "drain_s": 1,
            **settings,
        }
    )
    running = await start(given, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, SERVICE, 30)
            yield rpc.ValidationServiceStub(channel), running
    finally:
        await running.stop()


class Process:
    """The service as a process of its own, that can be killed and started again.

    Attributes:
        address: Address of its gRPC server.
        keys: Keys that it accepts.
    """

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.keys = write_access_keys(folder / "keys")
        self._environment = {
            **os.environ,
            "BEM_VALIDATION_ADDRESS": self.address,
            "BEM_VALIDATION_KEYS_FILE": str(self.keys.file),
            "BEM_VALIDATION_REDIS_URL": redis.url,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; health tells when it is ready."""
        command = [sys.executable, "-m", "bem_fleet.services.validation"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def process(folder: Path, redis: RedisServer) -> Iterator[Process]:
    """Run the service as a process; killed at the end."""
    made = Process(folder, redis)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def scores(
    metric: str = "f1", gain: float = 0.05, *, seeds: int = 3, items: int = 300
) -> pb.MetricScores:
    """Return paired scores with the given gain, and a deviation of 0.03 around it."""
    rng = np.random.default_rng(3)
    baseline = np.clip(0.5 + 0.1 * rng.standard_normal((seeds, items)), 0.3, 0.7)
    noise = np.clip(0.03 * rng.standard_normal((seeds, items)), -0.1, 0.1)
    mission = baseline + gain + noise - noise.mean()
    return pb.MetricScores(
        metric=metric,
        mission=pb.ScoreMatrix(seeds=seeds, values=mission.ravel()),
        baseline=pb.ScoreMatrix(seeds=seeds, values=baseline.ravel()),
    )


def weak_scores(claim: int, metric: str = "f1") -> pb.MetricScores:
    """Return scores without a gain, different for each claim."""
    return scores(metric, gain=0.0, seeds=1, items=50 + claim)


def compare(claim: str, given: pb.MetricScores | None = None, **head: Any) -> pb.CompareRequest:
    """Return a comparison."""
    made = pb.CompareHead(claim=claim, lineage=LINEAGE, **head)
    return pb.CompareRequest(head=made, scores=given or scores())


def clustered(given: pb.MetricScores, unit: str = "passage", size: int = 5) -> pb.MetricScores:
    """Return the scores with clusters of ``size`` items."""
    items = len(given.mission.values) // max(1, given.mission.seeds)
    numbers = [item // size for item in range(items)]
    made = pb.MetricScores(clusters=pb.ItemClusters(unit=unit, numbers=numbers))
    made.MergeFrom(given)
    return made


def gate(
    claim: str, *given: pb.MetricScores, gate_id: str = "A.em_f1", unit: str = "passage"
) -> pb.GateRequest:
    """Return a question for a gate, whose items are in clusters unless ``unit`` is empty."""
    head = pb.GateHead(claim=claim, gate_id=gate_id, lineage=LINEAGE)
    asked = given or (scores("exact_match"), scores("f1"))
    return pb.GateRequest(
        head=head, scores=[clustered(one, unit) if unit else one for one in asked]
    )


def chunks(given: pb.MetricScores, size: int) -> Iterator[pb.ScoreChunk]:
    """Cut scores into chunks, the sides one after the other."""
    for side, matrix in ((pb.SIDE_MISSION, given.mission), (pb.SIDE_BASELINE, given.baseline)):
        for begin in range(0, len(matrix.values), size):
            yield pb.ScoreChunk(
                metric=given.metric, side=side, values=matrix.values[begin : begin + size]
            )


async def ready(made: Process) -> Any:
    """Return a stub whose calls carry the operator's key, once the process is ready."""
    channel = open_channel(made.address)
    async with asyncio.timeout(60):
        await wait_ready(channel, SERVICE, 60)
    stub, key = rpc.ValidationServiceStub(channel), made.keys.metadata("operator")
    methods = pb.DESCRIPTOR.services_by_name["ValidationService"].methods_by_name
    return SimpleNamespace(**{name: partial(getattr(stub, name), metadata=key) for name in methods})


async def refused(call: Any) -> Any:
    """Return the details of the error that a call ends with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return details_of(caught.value)

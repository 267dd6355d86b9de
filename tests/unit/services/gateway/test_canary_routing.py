"""Canary policy on scripted attempts; calls over real sockets are in tests/integration."""

from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.canary_attempt import Call, Messages
from bem_fleet.services.gateway.canary_observations import CanaryObserver, RequestOutcome
from bem_fleet.services.gateway.canary_routing import CANARY, STABLE, CanaryRouter
from bem_fleet.services.gateway.method_fields import MethodFields
from bem_fleet.services.gateway.route_table import RouteTable
from bemfleet.fleet.v1 import fleet_pb2
from bemfleet.router.v1 import router_pb2 as pb
from fleet import wire
from fleet.clients import open_channel
from fleet.errors import OverloadedError, to_status
from fleet.reflection import ReflectionClient
from grpc import aio
from grpc_status import rpc_status

SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"]
GENERATE = f"/{SERVICE.full_name}/Generate"
HELLO = pb.GenerateResponse(text="hello")
LABEL = pb.GenerateResponse(model_version="v2")
END = pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP)
Script = Sequence[pb.GenerateResponse | grpc.RpcError]


def error(code: grpc.StatusCode, cause: Exception | None = None) -> grpc.RpcError:
    """Return an error of a call, with the details of its cause."""
    status = rpc_status.to_status(to_status(cause, {})) if cause else None
    trailing = aio.Metadata(*(status.trailing_metadata or ())) if status else aio.Metadata()
    details = status.details if status else "scripted"
    return aio.AioRpcError(code, aio.Metadata(), trailing, details=details)


BUSY = error(grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError("the queue is full", 5.0))
BROKEN, LEFT = error(grpc.StatusCode.UNAVAILABLE), error(grpc.StatusCode.CANCELLED)


class Recorder(CanaryObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1/0")
        self.records: list[tuple[str, list[bool]]] = []

    def record_stable(self, canary_id: str, outcome: RequestOutcome) -> None:
        """Keep an outcome of stable."""
        self.records.append((f"stable {canary_id}", [outcome.failed]))

    def record_canary(self, canary_id: str, outcome: RequestOutcome) -> None:
        """Keep an outcome of the canary."""
        self.records.append((f"canary {canary_id}", [outcome.failed]))

    def record_pair(self, canary_id: str, stable: RequestOutcome, canary: RequestOutcome) -> None:
        """Keep a pair."""
        self.records.append((f"pair {canary_id}", [stable.failed, canary.failed]))


class ScriptedRouter(CanaryRouter):
    """Opens scripts instead of calls: one for stable, one for the canary."""

    def __init__(
        self,
        stable: Script,
        canary: Script,
        *,
        mirror: int = 0,
        weight: int = 100,
        address: str = "canary",
    ) -> None:
        table = RouteTable(None, 1024, lambda _: None)
        route = fleet_pb2.Route(
            mission="router",
            canary=fleet_pb2.Target(address=address, model="next"),
            weight=weight,
            mirror=mirror,
            canary_id="c",
        )
        table.apply(fleet_pb2.WatchRoutesResponse(routes=[route]))
        self.recorder, self.opened, self.yielding = Recorder(), list[str](), list[str]()
        self.scripts = {STABLE: stable, CANARY: canary}
        channel = open_channel("127.0.0.1:1")
        reflection = ReflectionClient(channel, "router")
        super().__init__("router", channel, reflection, table, self.recorder)

    async def fields_of(self, path: str) -> MethodFields | None:
        """Return the fields of a method of the router."""
        return MethodFields(SERVICE.methods_by_name[path.rpartition("/")[2]])

    def open(self, call: Call, target: fleet_pb2.Target | None, timeout_s: float) -> Messages:
        """Play the script of the track."""
        del target, timeout_s
        self.opened.append(call.track)
        if (wire.YIELDS, "1") in call.metadata:
            self.yielding.append(call.track)
        return self._play(self.scripts[call.track])

    async def _play(self, script: Script) -> Messages:
        for step in script:
            if isinstance(step, grpc.RpcError):
                raise step
            yield step.SerializeToString()


async def run(router: CanaryRouter) -> tuple[list[pb.GenerateResponse], str, grpc.RpcError | None]:
    """Read a stream until its last text as the OpenAI routes do."""
    stub, messages, failure = router.stub("session", "request"), [], None
    stream: Any = stub.stream(GENERATE, b"", timeout_s=5.0, metadata=())
    try:
        async for raw in stream:
            messages.append(pb.GenerateResponse.FromString(raw))
            if messages[-1].finish_reason:
                break
    except grpc.RpcError as err:
        failure = err
    await stream.aclose()
    return messages, stub.track, failure


@pytest.mark.parametrize(
    ("stable", "canary", "messages", "track", "records"),
    [
        ([HELLO, END], [LABEL, HELLO, END], [LABEL, HELLO, END], CANARY, ("canary c", [False])),
        ([HELLO, END], [LABEL, BROKEN], [HELLO, END], STABLE, ("pair c", [False, True])),
        ([HELLO, END], [HELLO, BROKEN], [HELLO], CANARY, ("canary c", [True])),
        ([BROKEN], [BROKEN], [], STABLE, ("pair c", [True, True])),
        ([HELLO], [LABEL], [LABEL], CANARY, ("canary c", [True])),
    ],
    ids=["answers", "fails before text", "fails after text", "both fail", "says nothing"],
)
async def test_one_policy(
    stable: Script,
    canary: Script,
    messages: list[pb.GenerateResponse],
    track: str,
    records: tuple[str, list[bool]],
) -> None:
    """Who answers, what the client reads, and what is recorded, by where the canary fails."""
    router = ScriptedRouter(stable, canary)
    read, answered, _ = await run(router)

    assert (read, answered) == (messages, track)
    assert router.recorder.records == [records]


async def test_a_cancelled_call_is_nobodys_fault() -> None:
    """A client that leaves is neither repeated on stable nor recorded."""
    router = ScriptedRouter([HELLO, END], [LEFT])
    _, _, failure = await run(router)

    assert failure is LEFT
    assert router.opened == ["canary"]
    assert router.recorder.records == []


async def test_an_error_behind_the_end_counts_once() -> None:
    """After the message that ends the text the outcome is known; a later error adds nothing."""
    router = ScriptedRouter([HELLO, END], [HELLO, END, BROKEN])
    stream = router.stub("s", "r").stream(GENERATE, b"", timeout_s=5.0, metadata=())
    with pytest.raises(grpc.RpcError):
        _ = [raw async for raw in stream]

    assert router.recorder.records == [("canary c", [False])]


@pytest.mark.parametrize("weight", [0, 100])
async def test_mirrored_request_is_sent_to_the_other_track(weight: int) -> None:
    """Whichever track answers, the pair is stable first."""
    router = ScriptedRouter([HELLO, END], [HELLO, END], mirror=100, weight=weight)
    await run(router)
    await next(iter(router.mirrors.running))

    assert sorted(router.opened) == ["canary", "stable"]
    assert router.recorder.records == [("pair c", [False, False])]


@pytest.mark.parametrize(
    ("address", "opened", "code"),
    [("", ["canary"], grpc.StatusCode.RESOURCE_EXHAUSTED), ("canary", ["canary", "stable"], None)],
    ids=["an adapter", "pods of its own"],
)
async def test_a_canary_without_room_is_not_at_fault(
    address: str, opened: list[str], code: grpc.StatusCode | None
) -> None:
    """Stable answers if it is elsewhere; in the same process it would refuse the call again."""
    router = ScriptedRouter([HELLO, END], [BUSY], address=address)
    _, _, failure = await run(router)

    assert router.opened == opened
    assert (failure.code() if failure else None) is code
    assert [kind for kind, _ in router.recorder.records] == ["stable c"][: len(opened) - 1]


async def test_mirrored_calls_yield() -> None:
    """They say so to the mission, a refused one is no failure, and no further one follows."""
    router = ScriptedRouter([HELLO, END], [BUSY], mirror=100, weight=0)
    await run(router)
    await next(iter(router.mirrors.running))
    await run(router)

    assert router.opened == ["stable", "canary", "stable"]
    assert router.yielding == ["canary"]
    assert router.recorder.records == [("stable c", [False])] * 2


async def test_a_refused_client_pauses_the_mirrored_calls() -> None:
    """Where clients are refused there is no room for other requests."""
    router = ScriptedRouter([BUSY], [HELLO, END], mirror=100, weight=0)
    await run(router)

    assert not router.mirrors.may_run()
    assert router.recorder.records == []

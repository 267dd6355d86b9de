"""Reverse proxy: handlers by method, and the queue between mission and client."""

import asyncio
from typing import Any

import pytest
from bem_fleet.services.safety.descriptors import Catalog, Method
from bem_fleet.services.safety.proxy import _END, Proxy, _drain, _propagate_send_error
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import UnavailableError
from fleet.reflection import ServiceDescriptors

METHODS = pb.DESCRIPTOR.services_by_name["RouterService"].methods_by_name


class CallDetails:
    """Details of an incoming call."""

    def __init__(self, method: str) -> None:
        self.method = method


class Guard:
    """Response guard that records the messages."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.answers_one = False

    async def add(self, raw: bytes) -> None:
        """Keep the message."""
        self.messages.append(raw)


def handler(catalog: Catalog, path: str) -> Any:
    """Return the proxy's handler of a method."""
    parts: Any = None
    proxy = Proxy(
        SafetySettings(), parts, catalog, evaluator=parts, request_guard=parts, audit=parts
    )
    details: Any = CallDetails(path)
    return proxy.service(details)


def catalog(*names: str) -> Catalog:
    """Return a catalog with methods of the router."""
    found = Catalog()
    found._descriptors = ServiceDescriptors(services=("bemfleet.router.v1.RouterService",))
    found._methods = {f"/r/{name}": Method(METHODS[name]) for name in names}
    return found


def test_handler_matches_the_kind_of_the_method() -> None:
    """Unary methods have a unary handler, streams a streaming one, unknown methods none."""
    known = catalog("Complete", "Generate")

    assert handler(known, "/r/Complete").unary_unary is not None
    assert handler(known, "/r/Generate").stream_stream is not None
    assert handler(known, "/r/Other") is None


def test_unreachable_mission_is_unavailable() -> None:
    """Before the first reflection every call fails with UNAVAILABLE, not UNIMPLEMENTED."""
    with pytest.raises(UnavailableError, match="not reachable"):
        handler(Catalog(), "/r/Generate").stream_stream(None, None)


@pytest.mark.parametrize(("last", "ended"), [(_END, True), (ValueError("x"), True), (b"c", False)])
async def test_queued_messages_are_taken_together(last: Any, ended: bool) -> None:
    """Messages up to the end or the error are added at once."""
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    for entry in (b"a", b"b", last):
        inbox.put_nowait(entry)
    guard: Any = Guard()
    result, failure = await _drain(inbox, guard)

    assert result is ended
    assert failure is (last if isinstance(last, Exception) else None)
    assert guard.messages[:2] == [b"a", b"b"]


async def test_send_error_ends_the_response_stream() -> None:
    """An error of the request stream is propagated, an ended call is not."""
    inbox: asyncio.Queue[Any] = asyncio.Queue()

    async def fail(err: Exception) -> None:
        raise err

    for err in (asyncio.InvalidStateError(), ValueError("x")):
        task = asyncio.create_task(fail(err))
        await asyncio.wait([task])
        _propagate_send_error(task, inbox)

    assert [type(inbox.get_nowait()) for _ in range(inbox.qsize())] == [ValueError]

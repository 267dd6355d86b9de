"""One request on stable or canary: asked, observed, and saved by stable when the canary fails."""

from __future__ import annotations  # the typed stub exists in the stubs only

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

import grpc
from bem_fleet.services.gateway.errors import FILTERED
from bem_fleet.services.gateway.observations import Observer, Seen
from bem_fleet.services.gateway.routing import RouteTable
from bem_fleet.services.gateway.split import is_canary, is_mirrored
from bemfleet.fleet.v1 import fleet_pb2
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet import logs
from fleet.errors import details_of
from prometheus_client import Counter

_MIRRORS = 32
ANSWERED = Counter("bem_gateway_track_requests_total", "Requests by track.", ["mission", "track"])
SAVED = Counter(
    "bem_gateway_canary_saved_total", "Requests that stable answered for a canary.", ["mission"]
)
MIRRORED = Counter("bem_gateway_mirrored_total", "Requests asked of the other track too.", ["end"])
# What the caller did wrong, or wants: stable would say the same, and it counts for nobody.
_CALLERS = (grpc.StatusCode.CANCELLED,)
Metadata = tuple[tuple[str, str], ...]


class Tracks:
    """Everything that a split needs, shared by all requests.

    Args:
        mission: Whose routes hold.
        stable: The mission's own stub.
        table: The routes.
        observer: Where pairs go.
    """

    def __init__(
        self,
        mission: str,
        stable: rpc.RouterServiceAsyncStub,
        table: RouteTable,
        observer: Observer,
    ) -> None:
        self.mission, self.stable, self.table, self.observer = mission, stable, table, observer
        self._mirrors: set[asyncio.Task[None]] = set()

    def split(self, session: str, request_id: str) -> Split:
        """Return the tracks as one session's request sees them."""
        return Split(self, session, request_id)

    def stub_of(self, target: fleet_pb2.Target) -> rpc.RouterServiceAsyncStub:
        """Return the stub of one side."""
        if not target.address:
            return self.stable
        return rpc.RouterServiceStub(self.table.channel(target.address))

    def mirror(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` beside the requests, unless too much is done so already."""
        if len(self._mirrors) >= _MIRRORS:
            work.close()
            MIRRORED.labels("dropped").inc()
            return
        task = asyncio.create_task(work)
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def close(self) -> None:
        """End what is still mirrored."""
        for task in self._mirrors:
            task.cancel()
        await asyncio.gather(*self._mirrors, return_exceptions=True)


class Split:
    """Answers ``Complete`` and ``Generate`` like a stub, by the route of the request's model.

    Attributes:
        track: Who answered, once it is known: stable or canary.
    """

    def __init__(self, tracks: Tracks, session: str, request_id: str) -> None:
        self.track = "stable"
        self._tracks, self._session, self._request_id = tracks, session, request_id

    async def Complete(  # noqa: N802 - as the stub has it
        self,
        request: pb.CompleteRequest,
        *,
        timeout: float,  # noqa: ASYNC109
        metadata: Metadata,
    ) -> pb.CompleteResponse:
        """Return the whole answer; a canary that fails is answered for by stable."""
        route = self._route(request.request.model)
        if route is None:
            return await self._tracks.stable.Complete(request, timeout=timeout, metadata=metadata)
        began = time.monotonic()
        failed: Seen | None = None
        if self._is_canarys(route):
            try:
                answer = await self._ask(route.canary, request, timeout, metadata)
            except grpc.RpcError as err:
                failed = _failure(err, began)
            else:
                self._answered(route, "canary", Seen(time.monotonic() - began), request, metadata)
                return answer
        again = time.monotonic()
        left = timeout - (again - began)
        try:
            answer = await self._ask(route.stable, request, left, metadata)
        except grpc.RpcError as err:
            self._stable_failed(route, _seen(err, again), failed)
            raise
        self._stable_answered(route, Seen(time.monotonic() - again), failed, request, metadata)
        return answer

    def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, *, timeout: float, metadata: Metadata
    ) -> Any:
        """Return the call whose pieces are the answer."""
        route = self._route(request.model)
        if route is None:
            return self._tracks.stable.Generate(request, timeout=timeout, metadata=metadata)
        return _SplitCall(self._pieces(route, request, timeout, metadata))

    async def _pieces(
        self,
        route: fleet_pb2.Route,
        request: pb.GenerateRequest,
        limit_s: float,
        metadata: Metadata,
    ) -> AsyncIterator[pb.GenerateResponse]:
        began = time.monotonic()
        failures: list[Seen] = []
        if self._is_canarys(route):
            canarys = self._of_canary(route, request, limit_s, metadata, failures)
            async with aclosing(canarys) as pieces:
                async for piece in pieces:
                    yield piece
            if not failures:
                return
        failed = failures[0] if failures else None
        again = time.monotonic()
        left = limit_s - (again - began)
        try:
            async with aclosing(self._stream(route.stable, request, left, metadata)) as pieces:
                async for piece in pieces:
                    if piece.finish_reason:  # whoever reads goes after it
                        seen, whole = Seen(time.monotonic() - again), _whole(request)
                        self._stable_answered(route, seen, failed, whole, metadata)
                    yield piece
        except grpc.RpcError as err:
            self._stable_failed(route, _seen(err, again), failed)
            raise

    async def _of_canary(
        self,
        route: fleet_pb2.Route,
        request: pb.GenerateRequest,
        limit_s: float,
        metadata: Metadata,
        failures: list[Seen],
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """Yield the canary's pieces; a failure before its first word goes to ``failures``."""
        began = time.monotonic()
        held: list[pb.GenerateResponse] = []
        spoken = False
        try:
            async with aclosing(self._stream(route.canary, request, limit_s, metadata)) as pieces:
                async for piece in pieces:
                    held.append(piece)
                    if piece.finish_reason:
                        seen = Seen(time.monotonic() - began)
                        self._answered(route, "canary", seen, _whole(request), metadata)
                    if piece.text or piece.finish_reason:  # until then stable can answer
                        spoken = True
                        for one in held:
                            yield one
                        held.clear()
        except grpc.RpcError as err:
            failures.append(_failure(err, began))
            if spoken:
                self._tracks.observer.canary(route.canary_id, failures[0])
                raise

    def _route(self, model: str) -> fleet_pb2.Route | None:
        return self._tracks.table.route(self._tracks.mission, model)

    def _is_canarys(self, route: fleet_pb2.Route) -> bool:
        chosen = route.HasField("canary") and is_canary(
            self._session, route.canary_id, route.weight
        )
        self.track = "canary" if chosen else "stable"
        return chosen

    async def _ask(
        self,
        target: fleet_pb2.Target,
        request: pb.CompleteRequest,
        limit_s: float,
        metadata: Metadata,
    ) -> pb.CompleteResponse:
        asked = pb.CompleteRequest(request=_named(request.request, target))
        stub = self._tracks.stub_of(target)
        return await stub.Complete(asked, timeout=limit_s, metadata=metadata)

    async def _stream(
        self,
        target: fleet_pb2.Target,
        request: pb.GenerateRequest,
        limit_s: float,
        metadata: Metadata,
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """Yield one side's pieces; leaving them cancels the call."""
        stub = self._tracks.stub_of(target)
        call: Any = stub.Generate(_named(request, target), timeout=limit_s, metadata=metadata)
        try:
            async for piece in call:
                yield piece
        finally:
            call.cancel()

    def _stable_failed(
        self, route: fleet_pb2.Route, stable: Seen | None, failed: Seen | None
    ) -> None:
        """Both said no, or stable alone did; the caller's own fault is nobody's."""
        if stable is None:
            return
        if failed is not None:
            self._tracks.observer.pair(route.canary_id, stable, failed)
        elif route.HasField("canary"):
            self._tracks.observer.stable(route.canary_id, stable)

    def _stable_answered(
        self,
        route: fleet_pb2.Route,
        stable: Seen,
        failed: Seen | None,
        request: pb.CompleteRequest,
        metadata: Metadata,
    ) -> None:
        self._answered(route, "stable", stable, request, metadata, failed=failed)
        if failed is not None:
            SAVED.labels(route.mission).inc()

    def _answered(
        self,
        route: fleet_pb2.Route,
        track: str,
        seen: Seen,
        request: pb.CompleteRequest,
        metadata: Metadata,
        *,
        failed: Seen | None = None,
    ) -> None:
        """Count an answer, and see to it that it gets a partner."""
        self.track = track
        ANSWERED.labels(route.mission, track).inc()
        observer, name = self._tracks.observer, route.canary_id
        if not route.HasField("canary"):
            return
        if failed is not None:
            observer.pair(name, seen, failed)
        elif is_mirrored(self._request_id, name, route.mirror):
            self._tracks.mirror(self._mirrored(route, track, seen, request, metadata))
        elif track == "canary":
            observer.canary(name, seen)
        else:
            observer.stable(name, seen)

    async def _mirrored(
        self,
        route: fleet_pb2.Route,
        track: str,
        seen: Seen,
        request: pb.CompleteRequest,
        metadata: Metadata,
    ) -> None:
        """Ask the other track the same, throw its answer away, keep how it went."""
        other = route.stable if track == "canary" else route.canary
        began = time.monotonic()
        try:
            await self._ask(other, request, max(30.0, 4 * seen.seconds), metadata)
            reply: Seen | None = Seen(time.monotonic() - began)
        except grpc.RpcError as err:
            reply = _seen(err, began)
        MIRRORED.labels("answered" if reply and not reply.failed else "failed").inc()
        if reply is None:
            return
        pair = (reply, seen) if track == "canary" else (seen, reply)
        self._tracks.observer.pair(route.canary_id, *pair)


class _SplitCall:
    """A streaming call over both tracks, iterated and cancelled like gRPC's."""

    def __init__(self, pieces: AsyncIterator[pb.GenerateResponse]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[pb.GenerateResponse]:
        return self._pieces

    def cancel(self) -> None:
        """Leave it; the calls end as their iteration does."""
        closing = getattr(self._pieces, "aclose", None)
        if closing is not None:
            task = asyncio.ensure_future(closing())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _whole(request: pb.GenerateRequest) -> pb.CompleteRequest:
    return pb.CompleteRequest(request=request)


def _named(request: pb.GenerateRequest, target: fleet_pb2.Target) -> pb.GenerateRequest:
    if not target.model:
        return request
    renamed = pb.GenerateRequest()
    renamed.CopyFrom(request)
    renamed.model = target.model
    return renamed


def _seen(err: grpc.RpcError, began: float) -> Seen | None:
    """Return how a call failed; None if nobody can be blamed for it."""
    found = details_of(err)
    if found.code in _CALLERS:
        return None
    withheld = found.reason == FILTERED
    return Seen(time.monotonic() - began, failed=not withheld, withheld=withheld)


def _failure(err: grpc.RpcError, began: float) -> Seen:
    """Return how the canary failed; a caller who has left is raised on at once."""
    seen = _seen(err, began)
    if seen is None:
        raise err
    return seen


def session_of(headers: Any, user: str | None) -> str:
    """Return what identifies a session: its header, the request's user, else the request itself."""
    given = headers.get("x-session-id", "")[:256]
    return given or user or logs.request_id.get()

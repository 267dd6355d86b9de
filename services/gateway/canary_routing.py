"""Canary routing: splits the calls of a mission between stable and canary, on raw messages.

One policy serves unary and server-streaming calls of any method: a unary call is a stream of one
message. The chosen track makes an attempt. If the canary fails before the client has read any text,
stable answers instead; afterwards the error ends the answer, because two models' texts must not be
mixed. Every finished attempt becomes a ``RequestOutcome``, paired with one of the other track:

* canary fails, stable answers: both outcomes are the pair;
* the call is mirrored: the other track gets the same request after the answer, and its outcome
  completes the pair; its text is discarded;
* otherwise the observer pairs outcomes in order of arrival.

Example: a stream on the canary yields ``{model_version}``, ``{text: "Hel"}`` and breaks. The first
message is held back, as it carries no text; the second commits the call to the canary, and both are
sent. The break is then the client's error and a failed outcome. Had it come before ``"Hel"``, the
first message would have been dropped and stable would have answered from the start.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import replace

import grpc
from bem_fleet.services.gateway.bucketing import is_mirrored, is_on_canary
from bem_fleet.services.gateway.canary_attempt import (
    Attempt,
    Call,
    Messages,
    Metadata,
    OnComplete,
    call_messages,
    outcome_of,
    shed_for_s,
)
from bem_fleet.services.gateway.canary_mirrors import MIRRORED, CanaryMirrors
from bem_fleet.services.gateway.canary_observations import CanaryObserver, RequestOutcome
from bem_fleet.services.gateway.idle_missions import IdleMission
from bem_fleet.services.gateway.method_fields import MethodFields
from bem_fleet.services.gateway.replicas import ReplicaSet
from bem_fleet.services.gateway.route_table import RouteTable
from bemfleet.fleet.v1 import fleet_pb2
from fleet import wire
from fleet.access import admission
from fleet.access.method_roles import TokenCounter
from fleet.errors import UnavailableError
from fleet.reflection import ReflectionClient
from google.protobuf.message import DecodeError
from grpc import aio
from prometheus_client import Counter

# A mirrored call that is cut short counts as a failure of its track, so a slow one gets time.
_MIN_MIRROR_TIMEOUT_S = 30.0
ANSWERED = Counter("bem_gateway_track_requests_total", "Requests by track.", ["mission", "track"])
SAVED = Counter(
    "bem_gateway_canary_saved_total", "Requests that stable answered for a canary.", ["mission"]
)
STABLE, CANARY = "stable", "canary"


class CanaryRouter:
    """Canary routing of one mission, shared by all its requests.

    Args:
        mission: Name of the mission, as in the routes.
        stable: Channel to the mission itself.
        reflection: Descriptors of the mission's methods.
        table: Routes of the orchestrator.
        observer: Takes the outcomes.
        replicas: Pods of stable; None where its channel reaches all of them.
        idle: Holds calls while stable has no pods; None where it always has some.

    Attributes:
        mirrors: Mirrored calls of the mission.
    """

    def __init__(
        self,
        mission: str,
        stable: aio.Channel,
        reflection: ReflectionClient,
        table: RouteTable,
        observer: CanaryObserver,
        *,
        replicas: ReplicaSet | None = None,
        idle: IdleMission | None = None,
    ) -> None:
        self._idle = idle
        self.mission, self.table, self.observer = mission, table, observer
        self._stable, self._reflection, self._replicas = stable, reflection, replicas
        self._fields: dict[str, MethodFields] = {}
        self.mirrors = CanaryMirrors()

    def stub(self, session: str, request_id: str) -> CanaryStub:
        """Return the stub for the calls of one request of a session."""
        return CanaryStub(self, session, request_id)

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Return the context of a call, which is entered once the mission has pods.

        Raises:
            UnavailableError: By entering it, if no pod became ready in time.
        """
        return self._idle.call() if self._idle else nullcontext()

    def open(self, call: Call, target: fleet_pb2.Target | None, timeout_s: float) -> Messages:
        """Start a call on one track and yield its messages; closing the iteration cancels it."""
        address = target.address if target else ""
        # A single pod needs no key, for which each request would be parsed.
        if not address and self._replicas and self._replicas.is_spread:
            return self._open_on(self._replicas, call, timeout_s)
        channel = self.table.channel(address) if address else self._stable
        return call_messages(channel, call, timeout_s)

    async def _open_on(self, replicas: ReplicaSet, call: Call, timeout_s: float) -> Messages:
        try:
            fields = await self.fields_of(call.path)
            key = fields.affinity(call.request) if fields else ""
        except (UnavailableError, DecodeError):  # the mission says what is wrong
            key = ""
        async with aclosing(replicas.messages(call, timeout_s, key)) as messages:
            async for message in messages:
                yield message

    async def fields_of(self, path: str) -> MethodFields | None:
        """Return the fields of a method; None if the mission does not have it.

        Raises:
            UnavailableError: The mission's descriptors cannot be read.
        """
        method = await self._reflection.find_method(path)
        if method is None:
            return None
        fields = self._fields.get(path)
        if fields is None or fields.method is not method:  # the mission was replaced
            fields = self._fields[path] = MethodFields(method)
        return fields

    async def close(self) -> None:
        """Cancel the mirrored calls."""
        await self.mirrors.close()


class CanaryStub:
    """Calls methods of a mission for one request; the session decides the track.

    Attributes:
        track: Track that answered the last call, ``stable`` or ``canary``; known when the first
            message of the answer is there.
        router: Router of the mission.
        request_id: Id of the request, which decides about mirroring.
    """

    def __init__(self, router: CanaryRouter, session: str, request_id: str) -> None:
        self.track = STABLE
        self.router, self.request_id, self._session = router, request_id, session

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout_s: float,
        metadata: Metadata,
    ) -> bytes:
        """Return the serialised response of a unary method.

        Raises:
            grpc.RpcError: The call failed, on stable too if the canary was tried.
        """
        call = Call(path, request, streams=False, timeout_s=timeout_s, metadata=metadata)
        async with aclosing(self._messages(call)) as messages:
            return await anext(messages)

    async def stable_unary(
        self, path: str, request: bytes, *, timeout_s: float, metadata: Metadata
    ) -> bytes:
        """Return the response of a unary method of stable, which no canary analysis counts.

        Raises:
            grpc.RpcError: The call failed.
        """
        call = Call(path, request, streams=False, timeout_s=timeout_s, metadata=metadata)
        async with aclosing(self.router.open(call, None, timeout_s)) as messages:
            return await anext(messages)

    def stream(
        self, path: str, request: bytes, *, timeout_s: float, metadata: Metadata
    ) -> Messages:
        """Yield the serialised responses of a server-streaming method; closing it cancels the call.

        Raises:
            grpc.RpcError: The call failed.
        """
        return self._messages(
            Call(path, request, streams=True, timeout_s=timeout_s, metadata=metadata)
        )

    async def _messages(self, call: Call) -> Messages:
        async with self.router.hold():
            split = await self._split(call)
            messages = split.messages() if split else self.router.open(call, None, call.timeout_s)
            count = await self._token_counter(call.path)
            async with aclosing(messages):
                async for message in messages:
                    count(message)
                    yield message

    async def _token_counter(self, path: str) -> Callable[[bytes], None]:
        """Return the function that charges a response to the client's key."""
        admitted = admission.get()
        if admitted is None or not admitted.counts_tokens:
            return _charge_nothing
        fields = await self.router.fields_of(path)
        if fields is None:
            return _charge_nothing
        counter = TokenCounter(fields.method.output_type)
        return lambda message: admitted.charge(counter.count(message))

    async def _split(self, call: Call) -> CanaryCall | None:
        """Return the call as its route splits it; None if no route applies."""
        router = self.router
        if not router.table.has_route(router.mission):
            return None
        fields = await router.fields_of(call.path)
        if fields is None:  # the mission itself refuses the unknown method
            return None
        model = fields.model_of(call.request) if fields.names_model else None
        route = router.table.route(router.mission, model)
        if route is None:
            return None
        chosen = route.HasField("canary") and is_on_canary(
            self._session, route.canary_id, route.weight
        )
        self.track = CANARY if chosen else STABLE
        return CanaryCall(self, route, fields, call, on_canary=chosen)


def _charge_nothing(_message: bytes) -> None:
    """Charge no tokens: the client's key has no limit of them."""


class CanaryCall:
    """One call under a route: attempts, fallback to stable, observation and mirroring.

    Args:
        stub: Stub of the request; its ``track`` follows a fallback.
        route: Route of the call.
        fields: Fields of the method.
        call: Call of the client.
        on_canary: Whether the session is on the canary.
    """

    def __init__(
        self,
        stub: CanaryStub,
        route: fleet_pb2.Route,
        fields: MethodFields,
        call: Call,
        *,
        on_canary: bool,
    ) -> None:
        self._stub, self._route, self._fields, self._call = stub, route, fields, call
        self._router, self._observer = stub.router, stub.router.observer
        self._on_canary = on_canary

    async def messages(self) -> Messages:
        """Yield the messages of the answer.

        Raises:
            grpc.RpcError: The canary failed after it had spoken, or stable failed.
        """
        failure: RequestOutcome | None = None
        timeout_s = self._call.timeout_s
        if self._on_canary:
            attempt = self._attempt(CANARY, timeout_s, self._canary_answered)
            try:
                async with aclosing(attempt.messages_from_first_text()) as messages:
                    async for message in messages:
                        yield message
            except grpc.RpcError as err:
                failure = self._fallback_reason(attempt, err)
            else:
                return
            timeout_s -= attempt.elapsed_s  # both attempts share the client's deadline
        attempt = self._attempt(
            STABLE, timeout_s, lambda outcome: self._stable_answered(outcome, failure)
        )
        try:
            async with aclosing(attempt.messages()) as messages:
                async for message in messages:
                    yield message
        except grpc.RpcError as err:
            self._holds_mirrors(err)
            if not attempt.completed:
                self._stable_failed(outcome_of(err, attempt.elapsed_s), failure)
            raise

    def _attempt(
        self, track: str, timeout_s: float, on_complete: OnComplete, *, yields: bool = False
    ) -> Attempt:
        target = self._route.canary if track == CANARY else self._route.stable
        call = replace(self._call, track=track)
        if yields:
            call = replace(call, metadata=(*call.metadata, (wire.YIELDS, "1")))
        if target.model and self._fields.names_model:
            call = replace(call, request=self._fields.with_model(call.request, target.model))
        return Attempt(self._router.open(call, target, timeout_s), self._fields, on_complete)

    def _fallback_reason(self, attempt: Attempt, err: grpc.RpcError) -> RequestOutcome | None:
        """Return the canary's outcome if stable may still answer; else raise its error.

        It is None if the canary's pods had no room; an adapter's are stable's own.
        """
        outcome, is_shed = outcome_of(err, attempt.elapsed_s), self._holds_mirrors(err)
        has_own_pods = self._route.canary.address != self._route.stable.address
        # A call that its client cancelled says nothing, and a complete answer was recorded.
        if attempt.completed or (outcome is None and not (is_shed and has_own_pods)):
            raise err
        # The client has read the canary's text: stable's must not follow it.
        if attempt.committed:
            if outcome:
                self._observer.record_canary(self._route.canary_id, outcome)
            raise err
        self._stub.track = STABLE
        return outcome

    def _holds_mirrors(self, err: grpc.RpcError) -> bool:
        """Return whether a call was refused for want of room; mirrored calls then pause."""
        delay_s = shed_for_s(err)
        if delay_s is not None:
            self._router.mirrors.hold(delay_s)
        return delay_s is not None

    def _record_alone(self, track: str, outcome: RequestOutcome) -> None:
        """Record an outcome that has no mirrored one."""
        if track == CANARY:
            self._observer.record_canary(self._route.canary_id, outcome)
        elif self._route.HasField("canary"):
            self._observer.record_stable(self._route.canary_id, outcome)

    def _canary_answered(self, outcome: RequestOutcome) -> None:
        ANSWERED.labels(self._route.mission, CANARY).inc()
        # A mirrored outcome waits for its pair; recorded here too, it would count twice.
        if not self._mirrors(CANARY, outcome):
            self._record_alone(CANARY, outcome)

    def _stable_answered(self, outcome: RequestOutcome, failure: RequestOutcome | None) -> None:
        ANSWERED.labels(self._route.mission, STABLE).inc()
        if failure is not None:
            SAVED.labels(self._route.mission).inc()
            self._observer.record_pair(self._route.canary_id, outcome, failure)
        elif not self._mirrors(STABLE, outcome):
            self._record_alone(STABLE, outcome)

    def _stable_failed(
        self, outcome: RequestOutcome | None, failure: RequestOutcome | None
    ) -> None:
        """Record a failure of stable; with a failure of the canary both are the pair."""
        if outcome is None:
            return
        if failure is not None:
            self._observer.record_pair(self._route.canary_id, outcome, failure)
        else:
            self._record_alone(STABLE, outcome)

    def _mirrors(self, track: str, outcome: RequestOutcome) -> bool:
        """Start the mirrored call if the request is drawn for it and mirrored calls may run."""
        route, mirrors = self._route, self._router.mirrors
        if not is_mirrored(self._stub.request_id, route.canary_id, route.mirror):
            return False
        if may_run := mirrors.may_run():
            mirrors.run(self._mirror(track, outcome))
        return may_run

    async def _mirror(self, track: str, outcome: RequestOutcome) -> None:
        """Send the request to the other track, discard the answer and record the pair."""
        outcomes: list[RequestOutcome | None] = []
        timeout_s = max(_MIN_MIRROR_TIMEOUT_S, 4 * outcome.latency_s)
        other_track = STABLE if track == CANARY else CANARY
        attempt = self._attempt(other_track, timeout_s, outcomes.append, yields=True)
        try:
            async with aclosing(attempt.messages()) as messages:
                async for _ in messages:
                    if attempt.completed:  # the outcome is known: the rest costs the track tokens
                        break
        except grpc.RpcError as err:
            if self._holds_mirrors(err):
                MIRRORED.labels("yielded").inc()
                self._record_alone(track, outcome)
                return
            outcomes.append(outcome_of(err, attempt.elapsed_s))
        other = outcomes[0]
        MIRRORED.labels("answered" if other and not other.failed else "failed").inc()
        if other is not None:
            pair = (other, outcome) if track == CANARY else (outcome, other)
            self._observer.record_pair(self._route.canary_id, *pair)

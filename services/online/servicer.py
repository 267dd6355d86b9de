"""Servicer of ``bemfleet.online.v1.OnlineService``: messages in, host calls, messages out."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import time
from dataclasses import replace
from typing import Any

import grpc
from bem import errors
from bem_fleet.feedback.record import USER, Feedback
from bem_fleet.services.online.answer_ids import parse_answer_id
from bem_fleet.services.online.answering import AnsweringHolder
from bem_fleet.services.online.explanation import explain
from bem_fleet.services.online.feedback_entry import FeedbackEntry
from bem_fleet.services.online.learner_host import LearnerHost
from bem_fleet.services.online.metrics import REQUESTS, SECONDS
from bem_fleet.services.online.version_messages import explanation_message, version_message
from bem_fleet.serving import STATUS as SERVING_STATUS
from bemfleet.online.v1 import online_pb2 as pb
from bemfleet.online.v1 import online_pb2_grpc as rpc
from fleet.access.principal import Principal, Role, principal
from fleet.errors import FailedPreconditionError, InvalidArgumentError, StatusTable
from fleet.wire import TENANT
from grpc import aio

MAX_TOKENS, DEFAULT_TOKENS = 256, 64
MAX_VERSIONS, DEFAULT_VERSIONS = 200, 50
MAX_REASON_CHARS = 200
STATUS: StatusTable = {
    **SERVING_STATUS,
    errors.DataFormatError: grpc.StatusCode.FAILED_PRECONDITION,
}

Context = aio.ServicerContext


class OnlineServicer(rpc.OnlineServiceServicer):
    """Serves OnlineService.

    Args:
        holder: Holder of the answering.
        entry: Entry of feedback into the queue.

    Attributes:
        learner: Learner; None while the model loads, and where there is no bank.
        problem: Why there is no learner.
    """

    def __init__(self, holder: AnsweringHolder, entry: FeedbackEntry) -> None:
        self.learner: LearnerHost | None = None
        self.problem = "the model is still loading"
        self._holder, self._entry = holder, entry

    async def Generate(
        self, request: pb.GenerateRequest, context: Context[Any, Any]
    ) -> pb.GenerateResponse:
        """Answer one user message with the live version."""
        tokens = request.max_tokens if request.HasField("max_tokens") else DEFAULT_TOKENS
        _check_range("max_tokens", tokens, 1, MAX_TOKENS)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        with SECONDS.time():
            done = await self._holder.get().answer(
                request.prompt, model=request.model, max_tokens=tokens, deadline=deadline
            )
        REQUESTS.inc()
        return pb.GenerateResponse(**vars(done))

    async def Feedback(
        self,
        request: pb.FeedbackRequest,
        context: Context[Any, Any],
    ) -> pb.FeedbackResponse:
        """Scrub feedback and append it to the queue."""
        written = Feedback(
            completion_id=request.answer_id,
            rating=request.rating or None,
            correction=request.correction or None,
            edit=request.edit or None,
            comment=request.comment or None,
            prompt=request.prompt or None,
            answer=request.answer or None,
            tags=tuple(request.tags),
            user=request.user or None,
            consent=request.consent,
        )
        receipt = await self._entry.submit(written, _caller(context), request.idempotency_key)
        return pb.FeedbackResponse(id=receipt.identifier, repeated_key=receipt.repeated)

    async def Explain(
        self,
        request: pb.ExplainRequest,
        context: Context[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.ExplainResponse:
        """Say which feedback changed an answer."""
        if request.WhichOneof("subject") is None:
            raise InvalidArgumentError("subject", "is missing; give an answer_id or a prompt")
        if request.WhichOneof("subject") == "answer_id":
            version, condition = parse_answer_id(request.answer_id)
        else:
            version, condition = await self._met(request.prompt)
        learner = self._learner()
        found = await explain(learner.rollout.store, learner.events, version, condition)
        return explanation_message(found)

    async def Status(
        self,
        request: pb.StatusRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.StatusResponse:
        """Say what is served and what the learner does."""
        answering, learner = self._holder.get(), self.learner
        if learner is None:
            return pb.StatusResponse(not_learning=self.problem)
        store, served = learner.rollout.store, answering.served
        return pb.StatusResponse(
            live=await store.live(),
            served=served.version if served else 0,
            held=await store.is_held(),
            not_learning=learner.loop.problem,
            bank=learner.artifact.card.sha256,
            conditions=len(served.codebook.conditions) if served else 0,
            newest=await store.newest(),
            families=[
                pb.Family(name=name, events=events, lacks=lack)
                for name, (events, lack) in learner.learning.lacks.items()
            ],
            feedback=await learner.events.totals(),
            learner=learner.loop.learns,
        )

    async def Versions(
        self,
        request: pb.VersionsRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.VersionsResponse:
        """List the versions, newest first."""
        limit = request.limit if request.HasField("limit") else DEFAULT_VERSIONS
        _check_range("limit", limit, 1, MAX_VERSIONS)
        store = self._learner().rollout.store
        records = (await store.records())[: -limit - 1 : -1]
        return pb.VersionsResponse(
            versions=[version_message(one) for one in records],
            live=await store.live(),
            held=await store.is_held(),
        )

    async def Promote(
        self,
        request: pb.PromoteRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.PromoteResponse:
        """Make a version live that waits in shadow."""
        rollout = self._learner().rollout
        made = await rollout.promote(request.version, principal.get().name, _reason(request.reason))
        return pb.PromoteResponse(version=version_message(made))

    async def Restore(
        self,
        request: pb.RestoreRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.RestoreResponse:
        """Make a version live again."""
        _check_range("version", request.version, 0, 2**31 - 1)
        rollout = self._learner().rollout
        live = await rollout.restore(request.version, principal.get().name, _reason(request.reason))
        return pb.RestoreResponse(live=live)

    async def Hold(
        self,
        request: pb.HoldRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.HoldResponse:
        """Hold promotions, or let them go on."""
        store = self._learner().rollout.store
        await store.hold(held=request.held)
        return pb.HoldResponse(held=await store.is_held())

    async def Forget(
        self,
        request: pb.ForgetRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.ForgetResponse:
        """Forget a user."""
        done = await self._learner().rollout.forget(self._pseudonym(request), principal.get().name)
        return pb.ForgetResponse(
            removed=done.removed, withdrawn=list(done.withdrawn), live=done.live
        )

    def _pseudonym(self, request: pb.ForgetRequest) -> str:
        named = bool(request.tenant or request.client or request.user)
        if request.pseudonym:
            if named or not USER.fullmatch(request.pseudonym):
                raise InvalidArgumentError(
                    "pseudonym", "is two keyed hashes of 32 digits with a hyphen between them, "
                    "and excludes tenant, client and user"
                )  # fmt: skip
            return request.pseudonym
        if not request.client:
            raise InvalidArgumentError(
                "client", "is empty; name the API key that sent the feedback, or a pseudonym"
            )
        owner = Principal(request.client, Role.USER, request.tenant)
        return self._entry.user(owner, request.user or None)

    async def _met(self, prompt: str) -> tuple[int, str]:
        answering, keys = self._holder.get(), self._learner().keys
        if not prompt.strip():
            raise InvalidArgumentError("prompt", "is empty; write one user message")
        served = answering.served
        if served is None:
            return 0, ""
        met = served.codebook.match(await keys.state(prompt))
        return served.version, met.name if met else ""

    def _learner(self) -> LearnerHost:
        self._holder.get()
        if self.learner is None:
            raise FailedPreconditionError(f"bank: {self.problem}")
        return self.learner


def _caller(context: Context[Any, Any]) -> Principal:
    """Return the caller with the tenant that the sidecar states on the unix socket."""
    caller = principal.get()
    if caller.has_key or caller.role is not Role.OPERATOR:
        return caller
    tenant = dict(context.invocation_metadata() or ()).get(TENANT, "")
    return replace(caller, tenant=str(tenant))


def _reason(text: str) -> str:
    if len(text) > MAX_REASON_CHARS:
        raise InvalidArgumentError(
            "reason", f"has {len(text)} characters; at most {MAX_REASON_CHARS} are allowed"
        )
    return text or "an operator decided it"


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgumentError(
            field, f"{value} is out of range; the limits are {low} and {high}"
        )

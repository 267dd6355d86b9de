"""Feedback route: scrubs feedback, appends it to the queue, answers when it is on disk."""

from typing import Annotated

from bem_fleet.feedback.record import Feedback
from bem_fleet.services.gateway.body_route import ParameterRoute
from bem_fleet.services.gateway.openai_schema import FeedbackRequest
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from fleet import logs
from fleet.access import Role, principal
from prometheus_client import Counter

routes = APIRouter(prefix="/v1", route_class=ParameterRoute)
ACCEPTED = Counter("bem_gateway_feedback_total", "Feedback records accepted.", ["rating"])
_SHOWN = ("rating", "correction", "edit", "comment", "prompt", "answer", "session", "tags")


@routes.post("/feedback", status_code=201)
@requires(Role.USER)
async def submit_feedback(
    request: Request,
    body: FeedbackRequest,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=128)] = None,
) -> JSONResponse:
    """Scrub the feedback and append it; a repeated idempotency key stores nothing new."""
    state, caller = state_of(request), principal.get()
    written = Feedback(**{**body.model_dump(), "tags": tuple(body.tags)})
    record = await state.scrubber.scrub(written, caller, logs.request_id.get())
    once = state.scrubber.once_key(caller, idempotency_key)
    receipt = await state.feedback.submit(record, once)
    ACCEPTED.labels(body.rating or "none").inc()
    kept = [name for name in _SHOWN if getattr(record, name)]
    return JSONResponse({"id": receipt.identifier, "object": "feedback", "kept": kept}, 201)

"""Feedback route: scrubs feedback, appends it to a Redis stream, answers when it is on disk."""

import time
from typing import Annotated

from bem_fleet.services.gateway.openai_schema import FeedbackRequest
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from fleet import logs
from fleet.access import Role
from prometheus_client import Counter

routes = APIRouter(prefix="/v1")
ACCEPTED = Counter("bem_gateway_feedback_total", "Feedback records accepted.", ["rating"])


@routes.post("/feedback", status_code=201)
@requires(Role.USER)
async def submit_feedback(
    request: Request,
    body: FeedbackRequest,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=128)] = None,
) -> JSONResponse:
    """Scrub the feedback and append it; a repeated idempotency key stores nothing new."""
    state = state_of(request)
    record = {
        **await state.scrubber.scrub(body, logs.request_id.get()),
        "received_unix_ms": str(int(time.time() * 1000)),
        "rating": body.rating or "",
        "consent": "1" if body.consent else "0",
    }
    once = state.scrubber.pseudonym("idempotency-key", idempotency_key) or None
    identifier = await state.feedback.append_once(record, once)
    ACCEPTED.labels(body.rating or "none").inc()
    kept = [name for name in ("rating", "correction", "comment", "session") if record[name]]
    kept += ["tags"] if body.tags else []
    return JSONResponse({"id": identifier, "object": "feedback", "kept": kept}, 201)

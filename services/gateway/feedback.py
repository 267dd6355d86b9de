"""Feedback route: appends to a Redis stream and answers when the record is on disk."""

import json
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
    """Append the feedback to its stream; a repeated idempotency key stores nothing new."""
    record = {
        "request_id": logs.request_id.get(),
        "received_unix_ms": str(int(time.time() * 1000)),
        "completion_id": body.completion_id,
        "rating": body.rating or "",
        "correction": body.correction or "",
        "comment": body.comment or "",
        "tags": json.dumps(body.tags),
        "session": body.session or "",
        "consent": "1" if body.consent else "0",
    }
    identifier = await state_of(request).feedback.append_once(record, idempotency_key)
    ACCEPTED.labels(body.rating or "none").inc()
    return JSONResponse({"id": identifier, "object": "feedback"}, 201)

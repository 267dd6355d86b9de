"""Feedback: accepted only when it is on disk."""

import json
import time
from typing import Annotated

from bem_fleet.services.gateway.schema import FeedbackRequest
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from fleet import logs
from prometheus_client import Counter

routes = APIRouter(prefix="/v1")
ACCEPTED = Counter("bem_gateway_feedback_total", "Feedback records accepted.", ["rating"])


@routes.post("/feedback", status_code=201)
async def feedback(
    request: Request,
    body: FeedbackRequest,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=128)] = None,
) -> JSONResponse:
    """Append the feedback to its stream; the same idempotency key is stored once."""
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
    identifier = await request.app.state.feedback.append_once(record, idempotency_key)
    ACCEPTED.labels(body.rating or "none").inc()
    return JSONResponse({"id": identifier, "object": "feedback"}, 201)

"""Response objects and stream events of OpenAI's Responses API."""

import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

from bem_fleet.services.gateway.generation import ChoiceDelta
from bem_fleet.services.gateway.logprobs import LogprobFormatter
from bem_fleet.services.gateway.responses_items import Event, OutputItems
from bem_fleet.services.gateway.responses_schema import ResponsesRequest
from bemfleet.router.v1 import router_pb2 as pb
from pydantic import BaseModel

_ID_BYTES = 24
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseWriter:
    """Writes one response: as an object, and as the events of its stream.

    Args:
        body: Request that is answered.
        stored: Whether the response is kept for later requests.

    Attributes:
        identifier: Id of the response, which cannot be guessed.
        items: Items of the answer so far.
    """

    def __init__(self, body: ResponsesRequest, *, stored: bool) -> None:
        self.identifier = f"resp_{secrets.token_hex(_ID_BYTES)}"
        self.items = OutputItems(
            reads_calls=body.offers_tools, required=body.tool_choice not in (None, "none", "auto")
        )
        self._body, self._stored = body, stored
        self._created = int(time.time())
        self._formatter = LogprobFormatter("chat.completion", enabled=body.wants_logprobs)
        self._reason: str | None = None
        self._usage: pb.Usage | None = None
        self._filter: dict[str, Any] | None = None
        self._sequence = 0

    def add(self, delta: ChoiceDelta) -> list[Event]:
        """Take the next delta of the answer; return the events that it causes."""
        self._reason = delta.finish_reason
        if delta.output.HasField("usage"):
            self._usage = delta.output.usage
        if delta.withheld:
            self._filter = delta.withheld.content_filter_result()
        formatted = self._formatter.format(delta.output.logprobs)
        logprobs: list[dict[str, Any]] = formatted["content"] if formatted else []
        ended = self._reason is not None
        return list(self.items.add(delta.output.text, logprobs, ended=ended))

    def response(self) -> dict[str, Any]:
        """Return the response object with all that was added; it is complete if it has ended."""
        cut = _INCOMPLETE.get(self._reason or "")
        return self._object(
            self._status() if self._reason else "in_progress",
            output=self.items.objects(self._status()) if self._reason else [],
            incomplete_details={"reason": cut} if cut else None,
            completed_at=int(time.time()) if self._reason and not cut else None,
            usage=_usage(self._usage) if self._usage else None,
            **({"content_filter_results": self._filter} if self._filter else {}),
        )

    def opening(self) -> bytes:
        """Return the events before the first delta."""
        kinds = ("response.created", "response.in_progress")
        begun: list[Event] = [(kind, {"response": self._object("in_progress")}) for kind in kinds]
        if not self._body.offers_tools:  # whose answer may begin with a call
            begun += self.items.open_message()
        return self._encoded(begun)

    def event(self, delta: ChoiceDelta) -> bytes:
        """Take the next delta; return its events, empty if it adds nothing."""
        return self._encoded(self.add(delta))

    def closing(self) -> bytes:
        """Return the events behind the last delta."""
        ended = self._encoded(self.items.close(self._status()))
        whole = self.response()
        return ended + self._event(f"response.{whole['status']}", response=whole)

    def _status(self) -> str:
        return "incomplete" if _INCOMPLETE.get(self._reason or "") else "completed"

    def failure(self, error: dict[str, Any]) -> bytes:
        """Return the event of an error within the stream, which is its last."""
        code = "rate_limit_exceeded" if error["type"] == "rate_limit_error" else "server_error"
        failed = {"code": code, "message": error["message"]}
        return self._event("response.failed", response=self._object("failed", error=failed))

    def forget(self) -> None:
        """Say in the response that it is not kept."""
        self._stored = False

    def _object(self, status: str, **members: Any) -> dict[str, Any]:
        body = self._body
        return {
            "id": self.identifier,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": body.model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "instructions": body.instructions,
            "previous_response_id": body.previous_response_id,
            "store": self._stored,
            "metadata": body.metadata or {},
            "max_output_tokens": body.max_output_tokens,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "text": _text_options(body),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "tool_choice": _plain(body.tool_choice) or "auto",
            "tools": [_plain(tool) for tool in body.tools or ()],
            "truncation": "disabled",
            "user": body.user,
            **members,
        }

    def _encoded(self, events: Iterable[Event]) -> bytes:
        return b"".join(self._event(kind, **members) for kind, members in events)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence, **members}
        self._sequence += 1
        return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value


def _text_options(body: ResponsesRequest) -> dict[str, Any]:
    form = body.text.format if body.text else None
    if form is None:
        return {"format": {"type": "text"}}
    return {"format": form.model_dump(by_alias=True, exclude_none=True)}


def _usage(usage: pb.Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }

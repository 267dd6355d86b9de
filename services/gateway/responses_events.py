"""Response objects and stream events of OpenAI's Responses API."""

import json
import secrets
import time
from typing import Any

from bem_fleet.services.gateway.generation import ChoiceDelta
from bem_fleet.services.gateway.logprobs import LogprobFormatter
from bem_fleet.services.gateway.responses_schema import ResponsesRequest
from bemfleet.router.v1 import router_pb2 as pb

_ID_BYTES = 24
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseWriter:
    """Writes one response: as an object, and as the events of its stream.

    Args:
        body: Request that is answered.
        stored: Whether the response is kept for later requests.

    Attributes:
        identifier: Id of the response, which cannot be guessed.
        text: Text of the answer so far.
    """

    def __init__(self, body: ResponsesRequest, *, stored: bool) -> None:
        self.identifier = f"resp_{secrets.token_hex(_ID_BYTES)}"
        self.text = ""
        self._body, self._stored = body, stored
        self._created = int(time.time())
        self._message_id = f"msg_{secrets.token_hex(_ID_BYTES)}"
        self._formatter = LogprobFormatter("chat.completion", enabled=body.wants_logprobs)
        self._logprobs: list[dict[str, Any]] = []
        self._reason: str | None = None
        self._usage: pb.Usage | None = None
        self._filter: dict[str, Any] | None = None
        self._sequence = 0

    def add(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        """Take the next delta of the answer; return the log-probabilities of its tokens."""
        self.text += delta.output.text
        self._reason = delta.finish_reason
        if delta.output.HasField("usage"):
            self._usage = delta.output.usage
        if delta.withheld:
            self._filter = delta.withheld.content_filter_result()
        formatted = self._formatter.format(delta.output.logprobs)
        added: list[dict[str, Any]] = formatted["content"] if formatted else []
        self._logprobs += added
        return added

    def response(self) -> dict[str, Any]:
        """Return the response object with all that was added; it is complete if it has ended."""
        cut = _INCOMPLETE.get(self._reason or "")
        status = "incomplete" if cut else "completed"
        return self._object(
            status if self._reason else "in_progress",
            output=[self._message(status)] if self._reason else [],
            incomplete_details={"reason": cut} if cut else None,
            completed_at=int(time.time()) if self._reason and not cut else None,
            usage=_usage(self._usage) if self._usage else None,
            **({"content_filter_results": self._filter} if self._filter else {}),
        )

    def opening(self) -> bytes:
        """Return the events before the first delta."""
        added = {"output_index": 0, "item": {**self._message("in_progress"), "content": []}}
        return b"".join(
            (
                self._event("response.created", response=self._object("in_progress")),
                self._event("response.in_progress", response=self._object("in_progress")),
                self._event("response.output_item.added", **added),
                self._event("response.content_part.added", **self._place(), part=_part("", [])),
            )
        )

    def event(self, delta: ChoiceDelta) -> bytes:
        """Take the next delta; return its event, empty if it has no text."""
        logprobs = self.add(delta)
        text = delta.output.text
        if not text:
            return b""
        place = self._place()
        return self._event("response.output_text.delta", **place, delta=text, logprobs=logprobs)

    def closing(self) -> bytes:
        """Return the events behind the last delta."""
        whole, place = self.response(), self._place()
        done = {"text": self.text, "logprobs": self._logprobs}
        return b"".join(
            (
                self._event("response.output_text.done", **place, **done),
                self._event(
                    "response.content_part.done", **place, part=_part(self.text, self._logprobs)
                ),
                self._event("response.output_item.done", output_index=0, item=whole["output"][0]),
                self._event(f"response.{whole['status']}", response=whole),
            )
        )

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
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "truncation": "disabled",
            "user": body.user,
            **members,
        }

    def _message(self, status: str) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(self.text, self._logprobs)],
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **members: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence, **members}
        self._sequence += 1
        return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


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

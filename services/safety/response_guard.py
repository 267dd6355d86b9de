"""Response guard: filters complete responses at once and streams behind a hold-back window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bem_fleet.guard.findings import Span
from bem_fleet.guard.policy import Action
from bem_fleet.guard.spans import merge_spans, redact
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.descriptors import Method, texts
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.redaction import (
    NotRedactableError,
    redact_message,
    replace_texts,
)
from bem_fleet.services.safety.request_guard import enforce, parse_message
from bemfleet.common.v1 import text_pb2
from fleet.errors import DeniedError, UnavailableError
from fleet.wire import CONTENT_FILTERED
from google.protobuf.message import Message

_DELTA = text_pb2.TEXT_ROLE_OUTPUT_DELTA


class ResponseGuard:
    """Decides what of the response of one call reaches the client.

    Args:
        method: Called method.
        evaluator: Policy evaluator.
        record: Audit record of the call.
        hold_back: Buffer of the response stream.

    Attributes:
        method: Called method.
        record: Audit record of the call.
        prompt: Text of the request.
        text_complete: Whether the mission announced that no more text follows. Text that follows
            nevertheless is evaluated too.
    """

    def __init__(
        self,
        method: Method,
        evaluator: PolicyEvaluator,
        record: AuditRecord,
        hold_back: HoldBack,
    ) -> None:
        self.method = method
        self._evaluator = evaluator
        self.record = record
        self._hold_back = hold_back
        self.prompt = ""
        self.text_complete = False

    async def filter_message(self, raw: bytes) -> bytes:
        """Return a complete response as it may be released, with spans redacted.

        Raises:
            DeniedError: The policy withholds it.
            UnavailableError: It cannot be parsed, or there is no verdict.
        """
        message = parse_message(self.method.response, raw, _unreadable)
        redacted = await self._redact_complete_texts(texts(message))
        return self._replace(message, redacted).SerializeToString() if redacted else raw

    async def add(self, raw: bytes) -> None:
        """Evaluate the complete texts of a stream's message, and hold its streamed text back.

        Raises:
            DeniedError: The policy withholds a complete text.
            UnavailableError: The message cannot be parsed, or there is no verdict.
        """
        message = parse_message(self.method.response, raw, _unreadable)
        fields = list(texts(message))
        delta = ""
        if self.method.streams_responses:
            delta = "".join(text for _, role, text in fields if role == _DELTA)
            self.text_complete = self.method.ends_text(message)
        if redacted := await self._redact_complete_texts(fields):
            raw = self._replace(message, redacted).SerializeToString()
        self.record.count_text(delta)
        self._hold_back.add(raw, delta)

    async def _redact_complete_texts(
        self, fields: Iterable[tuple[str, int, str]]
    ) -> dict[str, str]:
        """Return the redacted texts by path; streamed texts are skipped."""
        redacted = {}
        for path, role, text in fields:
            if text and not (role == _DELTA and self.method.streams_responses):
                self.record.count_text(text)
                if spans := await self._evaluate(text, complete=True):
                    redacted[path] = redact(text, spans)
        return redacted

    def _replace(self, message: Message, redacted: dict[str, str]) -> Message:
        try:
            return replace_texts(message, redacted)
        except NotRedactableError as err:
            raise self._not_redactable(str(err)) from err

    async def evaluate_pending(self, *, ended: bool) -> None:
        """Evaluate the held-back text, if a verdict can release something.

        Args:
            ended: Whether the stream has ended.

        Raises:
            DeniedError: The policy withholds the text.
            UnavailableError: There is no verdict.
        """
        ended = ended or self.text_complete
        if text := self._hold_back.text_to_evaluate(ended=ended):
            length = len(self._hold_back.text)
            spans = await self._evaluate(text, complete=ended and length == len(text))
            self._hold_back.mark_evaluated(length, spans)

    def release(self, *, ended: bool) -> Iterator[bytes]:
        """Yield the messages that may be released, joined if their type allows it.

        Args:
            ended: Whether the stream has ended.
        """
        # The client of a request stream may wait for a whole answer before its next request.
        ended = ended or (self.text_complete and self.method.streams_requests)
        messages = [self._redact(*entry) for entry in self._hold_back.release(ended=ended)]
        yield from self.method.join(messages)

    async def _evaluate(self, text: str, *, complete: bool) -> list[Span]:
        verdict = await self._evaluator.evaluate(text, prompt=self.prompt, complete=complete)
        enforce(verdict, self.record, "response")
        spans = merge_spans(verdict.spans) if verdict.action == Action.REDACT else []
        self.record.redacted += len(spans)
        return spans

    def _redact(self, raw: bytes, offset: int, spans: list[Span]) -> bytes:
        if not spans:
            return raw
        message: Message = self.method.response.FromString(raw)
        try:
            return redact_message(message, _DELTA, spans, offset).SerializeToString()
        except NotRedactableError as err:
            raise self._not_redactable(str(err)) from err

    def _not_redactable(self, path: str) -> DeniedError:
        verdict = self.record.worst_verdict
        worst = verdict.worst_violation if verdict else None
        category = worst.rule.scorer if worst else ""
        return DeniedError(
            f"the response was withheld: {category} in {path}, which cannot be redacted",
            CONTENT_FILTERED,
            {"category": category, "side": "response"},
        )


def _unreadable(name: str, problem: str) -> UnavailableError:
    return UnavailableError(f"the mission's {name} {problem}; the response is blocked")

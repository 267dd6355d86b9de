"""Response guard: filters complete responses at once and streams behind a hold-back window."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bem_fleet.guard.findings import Span
from bem_fleet.guard.policy import Action
from bem_fleet.guard.spans import merge_spans, redact
from bem_fleet.services.safety.alternatives import remove_findings
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.continuation import end_of
from bem_fleet.services.safety.descriptors import Method
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.redaction import (
    NotRedactableError,
    has_entries,
    redact_stream_text,
    redact_tokens,
    replace_texts,
)
from bem_fleet.services.safety.request_guard import CheckedRequest, parse_message
from bem_fleet.services.safety.text_slots import TextSlot, text_slots
from bem_fleet.services.safety.token_redaction import TokenAligner, redact_entries
from bem_fleet.services.safety.verdicts import denial, enforce, reported_fields
from bemfleet.common.v1 import text_pb2
from fleet.errors import DeniedError, UnavailableError
from google.protobuf.message import Message

_DELTA = text_pb2.TEXT_ROLE_OUTPUT_DELTA


class ResponseGuard:
    """Decides what of the response of one call reaches the client.

    Args:
        method: Called method.
        evaluator: Policy evaluator.
        record: Audit record of the call.
        hold_back: Buffer of the response stream.
        context_chars: Characters of a request that are evaluated with the answer that continues it.

    Attributes:
        method: Called method.
        record: Audit record of the call.
        text_complete: Whether the mission announced that no more text follows. Text that follows
            nevertheless is evaluated too.
        reported: Fields that are reported of a withheld response too, by name.
    """

    def __init__(
        self,
        method: Method,
        evaluator: PolicyEvaluator,
        record: AuditRecord,
        hold_back: HoldBack,
        context_chars: int = 512,
    ) -> None:
        self.method = method
        self._evaluator = evaluator
        self.record = record
        self._hold_back = hold_back
        self._context_chars = context_chars
        self.text_complete = False
        self.reported: dict[str, str] = {}
        self._requests: deque[CheckedRequest] = deque()
        self._begins = True
        self._answers = 0
        self._aligner: TokenAligner | None = None
        self._has_tokens = False

    def begin(self, request: CheckedRequest) -> None:
        """Take note of a request before it is sent; its answers are judged with it."""
        self._requests.append(request)

    @property
    def prompt(self) -> str:
        """Text of the request that is being answered; empty for none."""
        return self._requests[0].text if self._requests else ""

    @property
    def _is_exact(self) -> bool:
        """Whether the answer has a form that a redaction would break."""
        return bool(self._requests) and self._requests[0].exact

    @property
    def answers_one(self) -> bool:
        """Whether the messages added last end the answer to one of several requests."""
        return self.method.streams_requests and self.text_complete

    async def filter_message(self, raw: bytes) -> bytes:
        """Return a complete response as it may be released, with spans redacted.

        Raises:
            DeniedError: The policy withholds it.
            UnavailableError: It cannot be parsed, or there is no verdict.
        """
        message = self._parse(raw)
        await self._filter_complete_texts(message, list(text_slots(message)))
        return message.SerializeToString()

    async def add(self, raw: bytes) -> None:
        """Evaluate the complete texts of a stream's message, and hold its streamed text back.

        Raises:
            DeniedError: The policy withholds a complete text.
            UnavailableError: The message cannot be parsed, or there is no verdict.
        """
        message = self._parse(raw)
        slots = list(text_slots(message))
        delta = ""
        if self._begins:
            self._start_answer()
        if self.method.streams_responses:
            delta = "".join(slot.text for slot in slots if slot.role == _DELTA)
            self.text_complete = self.method.ends_text(message)
        complete = [slot for slot in slots if not self._is_streamed(slot)]
        await self._filter_complete_texts(message, complete)
        self.record.count_text(delta)
        self._has_tokens |= any(getattr(message, f.name) for f in self.method.entry_fields)
        self._hold_back.add(message.SerializeToString(), delta)
        # A mission without deltas answers each request of a stream with one message.
        self._begins = self.method.streams_requests and (self.text_complete or not delta)

    def _start_answer(self) -> None:
        if self._answers and len(self._requests) > 1:
            self._requests.popleft()
        self._answers += 1
        continued = self._requests[0].continued if self._requests else ()
        preceding = end_of(continued[0], self._context_chars) if len(continued) == 1 else ""
        self._hold_back.start(preceding)
        self._aligner = TokenAligner(self._hold_back.origin)

    def _parse(self, raw: bytes) -> Message:
        message = parse_message(self.method.response, raw, _unreadable)
        # What the mission's descriptors do not describe cannot be judged.
        message.DiscardUnknownFields()
        self.reported |= reported_fields(message)
        return message

    def _is_streamed(self, slot: TextSlot) -> bool:
        return slot.role == _DELTA and self.method.streams_responses

    async def _filter_complete_texts(self, message: Message, slots: Sequence[TextSlot]) -> None:
        """Evaluate complete texts and redact them in place, with the tokens beside them."""
        replacements, origins = [], {}
        spans_by_path: dict[str, list[Span]] = {}
        for index, slot in enumerate(slots):
            if not slot.text:
                continue
            self.record.count_text(slot.text)
            preceding = self._preceding(index, len(slots))
            spans = await self._evaluate_complete(slot.text, preceding)
            first = preceding[0]
            origins[slot.path] = (first + slot.text, len(first))
            if spans:
                spans_by_path[slot.path] = [_moved(span, len(first)) for span in spans]
                replacements.append((slot, redact(slot.text, spans)))
        try:
            replace_texts(message, replacements)
        except NotRedactableError as err:
            raise self._not_redactable(str(err)) from err
        if not self.method.streams_text and has_entries(message):
            for text, entries in redact_tokens(message, slots, spans_by_path, origins):
                await remove_findings(entries, text, self._evaluator.find_spans)

    def _preceding(self, index: int, outputs: int) -> list[str]:
        """Return the ends of the texts that one of several outputs may continue; one at least."""
        continued = self._requests[0].continued if self._requests else ()
        if len(continued) == outputs:
            continued = continued[index : index + 1]
        ends = (end_of(text, self._context_chars) for text in continued)
        return list(dict.fromkeys(ends)) or [""]

    async def _evaluate_complete(self, text: str, preceding: Sequence[str]) -> list[Span]:
        """Return the redacted spans of a complete text that continues one of several texts."""
        found: list[Span] = []
        for before in preceding:
            spans = await self._evaluate(before + text, preceding=len(before), complete=True)
            found += [
                Span(max(0, s.start - len(before)), s.end - len(before), s.label, s.score, s.scorer)
                for s in spans
            ]
        return merge_spans(found)

    async def evaluate_pending(self, *, ended: bool) -> None:
        """Evaluate the held-back text, if a verdict can release something.

        Args:
            ended: Whether the stream has ended.

        Raises:
            DeniedError: The policy withholds the text.
            UnavailableError: There is no verdict.
        """
        ended = ended or self.text_complete
        hold_back = self._hold_back
        if text := hold_back.text_to_evaluate(ended=ended):
            length = len(hold_back.text)
            spans = await self._evaluate(
                text,
                preceding=hold_back.preceding_chars,
                complete=ended and hold_back.is_whole,
                ended=ended,
            )
            hold_back.mark_evaluated(length, spans)

    async def release(self, *, ended: bool) -> AsyncIterator[bytes]:
        """Yield the messages that may be released, joined if their type allows it.

        Args:
            ended: Whether the stream has ended.

        Raises:
            DeniedError: A span cannot be redacted.
            UnavailableError: There is no verdict on an alternative of a token.
        """
        # The client of a request stream may wait for a whole answer before its next request.
        ended = ended or self.answers_one
        messages = [await self._redact(*entry) for entry in self._hold_back.release(ended=ended)]
        for raw in self.method.join(messages):
            yield raw

    async def _evaluate(
        self, text: str, *, preceding: int, complete: bool, ended: bool = True
    ) -> list[Span]:
        verdict = await self._evaluator.evaluate(
            text, prompt=self.prompt, complete=complete, ended=ended, preceding=preceding
        )
        enforce(verdict, self.record, "response", self.reported)
        spans = merge_spans(verdict.spans) if verdict.action == Action.REDACT else []
        if self._is_exact and any(span.end > preceding for span in spans):
            raise denial(
                verdict,
                "response",
                self.reported,
                "the response was withheld: a finding cannot be cut out of a structured output",
            )
        self.record.redacted += len(spans)
        return spans

    async def _redact(self, raw: bytes, offset: int, spans: list[Span]) -> bytes:
        """Return a message of the stream with its spans redacted, in its text and its tokens."""
        if not spans and not self._has_tokens:
            return raw
        message: Any = self.method.response.FromString(raw)
        slots = [slot for slot in text_slots(message) if slot.role == _DELTA]
        try:
            redact_stream_text(message, slots, spans, offset)
        except NotRedactableError as err:
            raise self._not_redactable(str(err)) from err
        limit = offset + sum(len(slot.text) for slot in slots)
        for field in self.method.entry_fields:
            if entries := getattr(message, field.name):
                await self._redact_entries(entries, limit)
        return bytes(message.SerializeToString())

    async def _redact_entries(self, entries: Any, limit: int) -> None:
        text = self._hold_back.text
        aligner = self._aligner or TokenAligner(self._hold_back.origin)
        kept = redact_entries(entries, aligner, text, limit, self._hold_back.spans)
        await remove_findings(kept, text, self._evaluator.find_spans)

    def _not_redactable(self, path: str) -> DeniedError:
        return denial(
            self.record.worst_verdict,
            "response",
            self.reported,
            f"the response was withheld: a finding in {path} cannot be redacted",
        )


def _moved(span: Span, by: int) -> Span:
    return Span(span.start + by, span.end + by, span.label, span.score, span.scorer)


def _unreadable(name: str, problem: str) -> UnavailableError:
    return UnavailableError(f"the mission's {name} {problem}; the response is blocked")

"""What a mission's answers go through: whole texts at once, streams piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bem_fleet.guard.findings import Span
from bem_fleet.guard.policy import Action
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.descriptors import Method, texts
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.redaction import NotRedactableError, cut, merge_spans, replace_texts, without
from bem_fleet.services.safety.request_guard import FILTERED, enforce, parse
from bemfleet.common.v1 import text_pb2
from fleet.errors import DeniedError, UnavailableError
from google.protobuf.message import Message

_DELTA = text_pb2.TEXT_ROLE_OUTPUT_DELTA


class ResponseGuard:
    """The answer of one call.

    Args:
        method: Which was called.
        judge: Gives verdicts.
        record: Takes them.
        hold: Keeps a stream's messages back.

    Attributes:
        asked: Text of the request.
        said_all: Whether the mission said that no more text follows; if some does, it is judged.
    """

    def __init__(self, method: Method, judge: PolicyEvaluator, record: AuditRecord, hold: HoldBack) -> None:
        self.method = method
        self._judge = judge
        self.record = record
        self._hold = hold
        self.asked = ""
        self.said_all = False

    async def whole(self, raw: bytes) -> bytes:
        """Return a message that may leave at once, with spans cut out where the verdict says so.

        Raises:
            DeniedError: It may not.
            UnavailableError: It cannot be read, or there is no verdict.
        """
        message = parse(self.method.response, raw, _unreadable)
        changed = await self._changed(texts(message))
        return self._rewritten(message, changed).SerializeToString() if changed else raw

    async def take(self, raw: bytes) -> None:
        """PolicyEvaluator whole texts of a stream's message at once, and hold its other text back."""
        message = parse(self.method.response, raw, _unreadable)
        found = list(texts(message))
        delta = ""
        if self.method.streams_responses:
            delta = "".join(text for _, role, text in found if role == _DELTA)
            self.said_all = self.method.ends_text(message)
        if changed := await self._changed(found):
            raw = self._rewritten(message, changed).SerializeToString()
        self.record.saw(delta)
        self._hold.add(raw, delta)

    async def _changed(self, found: Iterable[tuple[str, int, str]]) -> dict[str, str]:
        """Return the texts by path that are other after the verdict; streamed ones wait."""
        changed = {}
        for path, role, text in found:
            if text and not (role == _DELTA and self.method.streams_responses):
                self.record.saw(text)
                if spans := await self._check(text, whole=True):
                    changed[path] = cut(text, spans)
        return changed

    def _rewritten(self, message: Message, changed: dict[str, str]) -> Message:
        try:
            return replace_texts(message, changed)
        except NotRedactableError as err:
            raise self._cannot_cut(str(err)) from err

    async def judge_new(self, *, ended: bool) -> None:
        """Ask for a verdict on what was held back, if it can let something out."""
        ended = ended or self.said_all
        if text := self._hold.unjudged(ended=ended):
            length = len(self._hold.text)
            spans = await self._check(text, whole=ended and length == len(text))
            self._hold.passed(length, spans)

    def leaving(self, *, ended: bool) -> Iterator[bytes]:
        """Yield what may leave, joined where the messages allow it."""
        clean = [self._cut(*held) for held in self._hold.releasable(ended=ended)]
        yield from self.method.join(clean)

    async def _check(self, text: str, *, whole: bool) -> list[Span]:
        verdict = await self._judge.check(text, asked=self.asked, whole=whole)
        enforce(verdict, self.record, "response")
        spans = merge_spans(verdict.spans) if verdict.action == Action.REDACT else []
        self.record.redacted += len(spans)
        return spans

    def _cut(self, raw: bytes, at: int, spans: list[Span]) -> bytes:
        if not spans:
            return raw
        message: Message = self.method.response.FromString(raw)
        try:
            return without(message, _DELTA, spans, at).SerializeToString()
        except NotRedactableError as err:
            raise self._cannot_cut(str(err)) from err

    def _cannot_cut(self, path: str) -> DeniedError:
        worst = self.record.worst.worst if self.record.worst else None
        category = worst.rule.scorer if worst else ""
        return DeniedError(
            f"the answer was withheld: {category} in {path}, which cannot be cut",
            FILTERED,
            {"category": category, "on": "response"},
        )


def _unreadable(name: str, text: str) -> UnavailableError:
    return UnavailableError(f"the mission's {name} {text}; nothing may leave")

"""Memory host: encoder, sessions and reader of a loaded model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bem.errors import InvalidRequestError
from bem.memory import MemoryEncoder, SessionMemory
from bem.memory.retrieval import MAX_HOPS, Question, Retrieved
from bem_fleet.services.memory.metrics import QUERIES, RETRIEVAL_SECONDS
from bem_fleet.services.memory.reader import CitedSpan, cite, reader_prompt
from bem_fleet.services.memory.session_cache import SessionCache
from bem_fleet.services.memory.session_keys import SessionKey
from bem_fleet.serving import EngineHost, GeneratedText
from fleet.errors import UnavailableError
from fleet.tracing import span


@dataclass(frozen=True)
class Inquiry:
    """A question to a session.

    Attributes:
        key: Key of the session.
        question: The question.
        hops: Hops of the retrieval, 1 or 2.
        threshold: Smallest confidence with which something counts as found.
    """

    key: SessionKey
    question: str
    hops: int
    threshold: float


@dataclass(frozen=True)
class Findings:
    """What the memory has on a question.

    Attributes:
        spans: Cited spans in the order of the text.
        confidence: Probability that they answer the question.
        found: Whether the confidence reaches the threshold.
    """

    spans: Sequence[CitedSpan]
    confidence: float
    found: bool


class MemoryHost:
    """Finds evidence and writes answers.

    Args:
        engine: Engine host that writes answers.
        encoder: Encoder of texts and questions.
        sessions: Sessions of the process.
        evidence_tokens: Most tokens of the evidence.
        reader_spans: Cited spans that the reader gets.
        reader: Adapter that answers unless a request names one; empty is the base model.

    Attributes:
        encoding: Lets one part of a document be encoded at a time.
    """

    def __init__(
        self,
        engine: EngineHost,
        encoder: MemoryEncoder,
        sessions: SessionCache,
        *,
        evidence_tokens: int,
        reader_spans: int,
        reader: str,
    ) -> None:
        self.engine, self.encoder, self.sessions = engine, encoder, sessions
        self.encoding = asyncio.Semaphore(1)
        self._evidence_tokens, self._reader = evidence_tokens, reader
        self._reader_spans = reader_spans

    async def find(self, inquiry: Inquiry) -> Findings:
        """Return the evidence for a question.

        Raises:
            InvalidRequestError: The question or the number of hops is out of range.
            NotFoundError: There is no such session.
        """
        if not 1 <= inquiry.hops <= MAX_HOPS:
            raise InvalidRequestError(
                "hops", f"{inquiry.hops} is out of range; 1 to {MAX_HOPS} are allowed"
            )
        with span("memory.retrieve", {"bem.memory.hops": inquiry.hops}) as one:
            question = await asyncio.to_thread(self.encoder.question, inquiry.question)
            async with self.sessions.use(inquiry.key) as session:
                with RETRIEVAL_SECONDS.time():
                    evidence, spans = await asyncio.to_thread(
                        self._retrieve, session.content, question, inquiry.hops
                    )
                confidence = session.content.confidence(evidence)
            found = bool(spans) and confidence >= inquiry.threshold
            one.set("bem.memory.spans", len(spans))
            one.set("bem.memory.found", found)
        QUERIES.labels("found" if found else "not_found").inc()
        return Findings(spans, confidence, found)

    async def answer(
        self,
        findings: Findings,
        question: str,
        *,
        model: str,
        max_tokens: int,
        deadline: float | None,
    ) -> GeneratedText:
        """Write an answer from the evidence; errors as in ``EngineHost.generate``."""
        return await self.engine.generate(
            reader_prompt(findings.spans, question, limit=self._reader_spans),
            model=model or self._reader,
            max_tokens=max_tokens,
            deadline=deadline,
        )

    def _retrieve(
        self, memory: SessionMemory, question: Question, hops: int
    ) -> tuple[Retrieved, list[CitedSpan]]:
        evidence = memory.retrieve(question, hops=hops)
        spans = cite(memory, self.encoder.tokenizer, evidence, tokens=self._evidence_tokens)
        return evidence, spans


class MemoryHolder:
    """Memory host of a service that is reachable before its model is loaded."""

    def __init__(self) -> None:
        self.host: MemoryHost | None = None

    def get(self) -> MemoryHost:
        """Return the host.

        Raises:
            UnavailableError: The model is still loading.
        """
        if self.host is None:
            raise UnavailableError("the model is still loading; retry later", retry_after_s=2.0)
        return self.host

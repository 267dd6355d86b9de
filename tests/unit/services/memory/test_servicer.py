"""Servicer of the memory mission: translation and limits, without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bem_fleet.services.memory.answering import MemoryHolder
from bem_fleet.services.memory.servicer import MemoryServicer
from bem_fleet.services.memory.settings import MemorySettings
from bemfleet.common.v1 import text_pb2
from bemfleet.memory.v1 import memory_pb2 as pb
from fleet.access import Role, principal
from fleet.access.principal import SOCKET_PEER, Principal
from fleet.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from fleet.testing import RedisServer
from fleet.text_roles import role_of

from tests.unit.services.memory.hosts import caller, host_of, parts, stored

FACT = "The code of Rina is 4711. "
ACME = caller("acme")


@pytest.fixture
async def servicer(redis_server: RedisServer) -> AsyncIterator[Any]:
    """A servicer with a session ``s`` of tenant acme that knows one fact."""
    principal.set(SOCKET_PEER)
    async with stored(redis_server) as store:
        holder = MemoryHolder()
        holder.host = host_of(store)
        made: Any = MemoryServicer(holder, store, MemorySettings(max_sessions=3))
        answers = [one async for one in made.Ingest(parts(*document()), ACME)]
        assert [one.acknowledged for one in answers] == [len(FACT), len(FACT)]
        assert answers[-1].complete
        yield made


def document(session: str = "s", **head: Any) -> list[pb.IngestRequest]:
    """Return the messages of a document."""
    return [
        pb.IngestRequest(head=pb.IngestHead(session=session, document="book", **head)),
        pb.IngestRequest(text=FACT),
        pb.IngestRequest(end=True),
    ]


async def query(servicer: Any, **fields: Any) -> list[pb.QueryResponse]:
    """Return the responses to a question."""
    request = pb.QueryRequest(**{"session": "s", "question": "What is the code of Rina?", **fields})
    return [one async for one in servicer.Query(request, ACME)]


async def test_spans_come_before_the_outcome(servicer: Any) -> None:
    """Each span is a message; the last one has the answer of the reader."""
    span, last = await query(servicer)
    alone = await query(servicer, max_tokens=0)
    unsure = await query(servicer, question="What is the wage of Boris?")

    assert (span.span.document, span.span.begin, span.span.end) == ("book", 0, len(FACT))
    assert span.span.text == FACT
    assert last.outcome.found
    assert FACT.strip() in last.outcome.answer
    assert last.outcome.model_version == "reader"
    assert alone[-1].outcome.found
    assert not alone[-1].outcome.answer
    assert not unsure[-1].outcome.found
    assert not unsure[-1].outcome.answer


async def test_limits_of_fields_are_named(servicer: Any) -> None:
    """Numbers out of range are INVALID_ARGUMENT with their field."""
    wrong = {"max_tokens": 257, "threshold": 1.5, "hops": 0, "session": "a/b"}
    for field, value in wrong.items():
        with pytest.raises(Exception, match=f"^{field}: "):
            await query(servicer, **{field: value})
    with pytest.raises(InvalidArgumentError, match="limit: 501 is out of range; the limits are 1"):
        await servicer.Coverage(pb.CoverageRequest(session="s", limit=501), ACME)
    for head in ({"budget_bytes": 10}, {"offset": -1}):
        stream = servicer.Ingest(parts(*document("t", **head)), ACME)
        with pytest.raises(InvalidArgumentError, match=f"{next(iter(head))}: .* is out of range"):
            await anext(stream)


async def test_streams_must_begin_and_go_on_as_stated(servicer: Any) -> None:
    """A stream without its head, or with a second one, is the caller's error."""
    head, text, _ = document("t")
    for stream, problem in (
        (servicer.Ingest(parts(text), ACME), "must be the head"),
        (servicer.Ingest(parts(), ACME), "must be the head"),
        (servicer.Ingest(parts(head, head), ACME), "after the head come texts"),
    ):
        with pytest.raises(InvalidArgumentError, match=problem):
            await anext(stream)
    for first in (pb.RestoreRequest(content=b"x"), None):
        with pytest.raises(InvalidArgumentError, match="must be the session"):
            await servicer.Restore(parts(*([first] if first else [])), ACME)


async def test_coverage_lists_documents_and_spans(servicer: Any) -> None:
    """The session's documents, spans and counts are translated."""
    covered = await servicer.Coverage(pb.CoverageRequest(session="s"), ACME)

    assert [(one.name, one.characters, one.complete) for one in covered.documents] == [
        ("book", len(FACT), True)
    ]
    assert [(one.document, one.begin, one.end) for one in covered.spans] == [("book", 0, len(FACT))]
    assert (covered.kept, covered.sentences, covered.budget_bytes) == (1, 1, 2**20)


async def test_snapshot_restores_under_another_name(servicer: Any) -> None:
    """A copy answers as the original; an existing session is not overwritten."""
    request = pb.SnapshotRequest(session="s")
    content = b"".join([one.content async for one in servicer.Snapshot(request, ACME)])

    def restore(name: str) -> Any:
        messages = pb.RestoreRequest(session=name), pb.RestoreRequest(content=content)
        return servicer.Restore(parts(*messages), ACME)

    restored = await restore("copy")
    assert (restored.kept, restored.documents[0].name) == (1, "book")
    assert await query(servicer, session="copy") == await query(servicer)
    with pytest.raises(FailedPreconditionError, match="'copy' exists; forget it first"):
        await restore("copy")
    listed = await servicer.ListSessions(pb.ListSessionsRequest(), ACME)
    assert [one.name for one in listed.sessions] == ["copy", "s"]
    assert listed.limit == 3


async def test_forgotten_session_does_not_exist(servicer: Any) -> None:
    """After a document is forgotten nothing is found; after the session, it is NOT_FOUND."""
    request = pb.ForgetRequest(session="s", document="book")
    assert (await servicer.Forget(request, ACME)).sentences == 1
    (last,) = await query(servicer)
    assert not last.outcome.found
    await servicer.Forget(pb.ForgetRequest(session="s"), ACME)
    with pytest.raises(NotFoundError):
        await query(servicer)


async def test_session_of_another_tenant_does_not_exist(servicer: Any) -> None:
    """Another tenant can neither ask, list, forget nor copy a session."""
    other = caller("globex")
    calls = (
        anext(servicer.Query(pb.QueryRequest(session="s", question="x"), other)),
        anext(servicer.Snapshot(pb.SnapshotRequest(session="s"), other)),
        servicer.Coverage(pb.CoverageRequest(session="s"), other),
        servicer.Forget(pb.ForgetRequest(session="s"), other),
    )
    for call in calls:
        with pytest.raises(NotFoundError, match="'s' does not exist"):
            await call

    assert not (await servicer.ListSessions(pb.ListSessionsRequest(), other)).sessions
    assert (await query(servicer))[-1].outcome.found


async def test_session_of_another_key_is_not_touched(servicer: Any) -> None:
    """A key without a tenant, and an operator's, reach no session of tenant acme, of its name too.

    What they ingest under the same name is their own.
    """
    for metadata in (caller("", "acme"), caller("", "operator"), caller("", "web")):
        for document_name in ("book", ""):
            request = pb.ForgetRequest(session="s", document=document_name)
            with pytest.raises(NotFoundError, match="'s' does not exist"):
                await servicer.Forget(request, metadata)
        assert [one async for one in servicer.Ingest(parts(*document()), metadata)][-1].complete
        assert (await servicer.Forget(pb.ForgetRequest(session="s"), metadata)).sentences == 1

    assert (await query(servicer))[-1].outcome.found


async def test_no_role_of_a_caller_widens_its_sessions(servicer: Any) -> None:
    """Over the network an operator's key forgets sessions of its own tenant only, as a user's."""
    for role in (Role.USER, Role.OPERATOR):
        principal.set(Principal("bob", role, tenant="globex", has_key=True))
        with pytest.raises(NotFoundError, match="'s' does not exist"):
            await servicer.Forget(pb.ForgetRequest(session="s"), ACME)
    principal.set(SOCKET_PEER)

    assert (await query(servicer))[-1].outcome.found


def test_text_of_documents_leaves_only_where_it_is_judged() -> None:
    """Ingested text is returned as a span or an answer, whose roles the sidecar judges.

    All other texts are names and versions, and the bytes of a snapshot, which its owner restores.
    """
    texts: dict[int, set[str]] = {}
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        if not message.name.endswith(("Request", "Head")):
            for field in message.fields:
                if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                    texts.setdefault(role_of(field), set()).add(f"{message.name}.{field.name}")

    assert texts == {
        text_pb2.TEXT_ROLE_OUTPUT: {"Span.text", "Outcome.answer"},
        text_pb2.TEXT_ROLE_LABEL: {
            *("Span.document", "Document.name", "CoveredSpan.document", "Session.name"),
            *("Outcome.model_version", "SnapshotResponse.content"),
        },
    }

"""Memory mission over the wire with a real Redis: ingest, ask, forget, restore, owners, sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.descriptors import load_descriptors
from bemfleet.memory.v1 import memory_pb2 as pb
from fleet.access.method_roles import MethodRoles
from fleet.access.principal import Role
from fleet.errors import details_of
from fleet.redis_acl import acl_file
from fleet.testing import RedisServer
from grpc import aio

from tests.integration.memories import ACME, GLOBEX, ask, filler, memory, messages
from tests.support.access_keys import write_access_keys

FACT = "The code of Rina is 4711. "
QUESTION = "What is the code of Rina?"
SERVICE = pb.DESCRIPTOR.services_by_name["MemoryService"].full_name


async def ingest(stub: Any, *texts: str, metadata: Any = ACME, **head: Any) -> Any:
    """Ingest a document and return its progress."""
    session, document = head.pop("session", "s"), head.pop("document", "book")
    stream = stub.Ingest(messages(session, document, *texts, **head), metadata=metadata)
    return [one async for one in stream]


async def status_of(call: Any) -> Any:
    """Return the details of the error that a call ends with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await anext(aiter(call)) if hasattr(call, "__aiter__") else await call
    return details_of(caught.value)


async def test_fact_is_cited_from_a_long_document(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """A fact among 3,000 sentences is found with its exact place; an unknown one is not found."""
    text = filler(2000) + FACT + filler(1000, 2000)
    parts = [text[at : at + 30_000] for at in range(0, len(text), 30_000)]
    async with memory(tmp_path, redis_server) as (stub, _):
        progress = await ingest(stub, *parts)
        *spans, last = await ask(stub, QUESTION)
        *_, answered = await ask(stub, QUESTION, max_tokens=4)
        *_, unknown = await ask(stub, "What is the wage of Boris?")
        covered = await stub.Coverage(pb.CoverageRequest(session="s"), metadata=ACME)

    assert [one.acknowledged for one in progress[:-1]] == [
        min(len(text), 30_000 * (n + 1)) for n in range(len(parts))
    ]
    begin = text.index(FACT)
    assert (begin, begin + len(FACT)) in [(one.span.begin, one.span.end) for one in spans]
    assert all(text[one.span.begin : one.span.end] == one.span.text for one in spans)
    assert last.outcome.found
    assert answered.outcome.model_version
    assert not unknown.outcome.found
    assert covered.sentences >= covered.kept > 2000


async def test_document_is_forgotten_and_restored(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """A snapshot that was taken before brings a forgotten document back, under another name."""
    async with memory(tmp_path, redis_server) as (stub, _):
        await ingest(stub, FACT, filler(20))
        request = pb.SnapshotRequest(session="s")
        content = [one.content async for one in stub.Snapshot(request, metadata=ACME)]
        forgotten = await stub.Forget(pb.ForgetRequest(session="s", document="book"), metadata=ACME)
        *_, after = await ask(stub, QUESTION)
        parts = [pb.RestoreRequest(session="old")]
        parts += [pb.RestoreRequest(content=one) for one in content]
        restored = await stub.Restore(iter(parts), metadata=ACME)
        *_, again = await ask(stub, QUESTION, session="old")
        broken = [parts[0], pb.RestoreRequest(content=content[0][:-1])]
        broken[0] = pb.RestoreRequest(session="new")
        refused = await status_of(stub.Restore(iter(broken), metadata=ACME))

    assert forgotten.sentences == restored.kept == 21
    assert not after.outcome.found
    assert again.outcome.found
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "SHA-256" in refused.message


async def test_session_of_another_tenant_does_not_exist(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Another tenant gets NOT_FOUND for every call, and its own session of that name."""
    async with memory(tmp_path, redis_server) as (stub, _):
        await ingest(stub, FACT)
        errors = [
            await status_of(call(request, metadata=GLOBEX))
            for call, request in (
                (stub.Query, pb.QueryRequest(session="s", question=QUESTION)),
                (stub.Coverage, pb.CoverageRequest(session="s")),
                (stub.Forget, pb.ForgetRequest(session="s")),
                (stub.Snapshot, pb.SnapshotRequest(session="s")),
            )
        ]
        await ingest(stub, filler(3), metadata=GLOBEX)
        *_, other = await ask(stub, QUESTION, metadata=GLOBEX)
        *_, own = await ask(stub, QUESTION)

    assert {one.code for one in errors} == {grpc.StatusCode.NOT_FOUND}
    assert not other.outcome.found
    assert own.outcome.found


async def test_errors_name_field_and_limit(tmp_path: Path, redis_server: RedisServer) -> None:
    """Wrong fields are INVALID_ARGUMENT, a wrong offset FAILED_PRECONDITION, a quota exhausted."""
    limits = {"max_sessions": 1, "max_session_chars": 60}
    async with memory(tmp_path, redis_server, **limits) as (stub, _):
        await ingest(stub, FACT, end=False)
        asked = pb.QueryRequest(session="s", question=QUESTION, threshold=2)
        threshold = await status_of(stub.Query(asked, metadata=ACME))
        session = await status_of(stub.Ingest(messages("a:b", "book", "x"), metadata=ACME))
        offset = await status_of(stub.Ingest(messages("s", "book", "x"), metadata=ACME))
        text = await status_of(
            stub.Ingest(messages("s", "book", "x" * 40, offset=len(FACT)), metadata=ACME)
        )
        sessions = await status_of(stub.Ingest(messages("t", "book", "x"), metadata=ACME))

    assert (threshold.code, threshold.field) == (grpc.StatusCode.INVALID_ARGUMENT, "threshold")
    assert (session.code, session.field) == (grpc.StatusCode.INVALID_ARGUMENT, "session")
    assert offset.code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"continue at {len(FACT)}" in offset.message
    assert {text.code, sessions.code} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert "60 is the limit" in text.message
    assert "1 sessions" in sessions.message


async def test_redis_user_of_the_service_can_do_all_and_no_more(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """With the access of its descriptor the service works, and reaches no other key."""
    del redis_server
    (memory_descriptor,) = [one for one in load_descriptors() if one.name == "memory"]
    assert memory_descriptor.redis is not None
    rules = {"memory": memory_descriptor.redis.rules}
    acl = tmp_path / "users.acl"
    acl.write_text(acl_file(rules, {"memory": "secret"}))
    server = RedisServer(tmp_path, acl)
    server.start()
    try:
        url = f"redis://memory:secret@127.0.0.1:{server.port}/0"
        async with memory(tmp_path, server, redis_url=url, compact_batches=2) as (stub, _):
            await ingest(stub, FACT, filler(3), filler(3, 3))
            *_, last = await ask(stub, QUESTION)
            listed = await stub.ListSessions(pb.ListSessionsRequest(), metadata=ACME)
            await stub.Forget(pb.ForgetRequest(session="s"), metadata=ACME)
    finally:
        server.kill()

    assert last.outcome.found
    assert [one.name for one in listed.sessions] == ["s"]


async def test_users_may_call_and_keys_are_owners(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """On a network address a user's key suffices, and its tenant owns what it ingests."""
    keys = write_access_keys(
        tmp_path / "keys", {"name": "web", "tenant": "acme"}, {"name": "bob", "tenant": "globex"}
    )
    settings = {"address": "127.0.0.1:0", "keys_file": keys.file}
    async with memory(tmp_path, redis_server, **settings) as (stub, _):
        await ingest(stub, FACT, metadata=keys.metadata("web"))
        *_, own = await ask(stub, QUESTION, metadata=keys.metadata("web"))
        # Metadata that only a sidecar may set is not believed of a client.
        forged = (*keys.metadata("bob"), ("bem-tenant", "acme"))
        asked = pb.QueryRequest(session="s", question=QUESTION)
        other = await status_of(stub.Query(asked, metadata=forged))
        keyless = await status_of(stub.Query(asked))

    assert own.outcome.found
    assert other.code is grpc.StatusCode.NOT_FOUND
    assert keyless.code is grpc.StatusCode.UNAUTHENTICATED
    roles = MethodRoles()
    methods = pb.DESCRIPTOR.services_by_name["MemoryService"].methods
    assert {roles.role(f"/{SERVICE}/{one.name}") for one in methods} == {Role.USER}

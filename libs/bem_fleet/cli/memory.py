"""``fleetctl memory``: documents of mission memory and questions about them, over gRPC."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from bemfleet.memory.v1 import memory_pb2 as pb
from bemfleet.memory.v1 import memory_pb2_grpc as rpc
from fleet.access.own_key import Metadata, bearer
from fleet.errors import InvalidArgumentError, details_of
from fleet.wire import AUTHORIZATION

from bem_fleet.cli.application import NO, YES
from bem_fleet.cli.operator_channel import service_channel

PART_CHARS = 16_384
"""Characters of a text; progress is printed after each."""

_TIMEOUT_S = 600.0

app = typer.Typer(
    no_args_is_help=True,
    help="Let mission memory read documents, and ask about them. Exit code 0: done, or found; 1: "
    "refused, or not found; 2: it cannot be reached.",
)


@dataclass(frozen=True)
class Target:
    """Mission to call.

    Attributes:
        address: ``host:port`` of its sidecar.
        metadata: Key of the caller; empty for none.
        session: Name of the session.
    """

    address: str
    metadata: Metadata
    session: str


@app.callback()
def _options(
    ctx: typer.Context,
    address: Annotated[str, typer.Option(help="host:port of the mission")] = "127.0.0.1:50081",
    session: Annotated[str, typer.Option(help="name of the session")] = "default",
    key_file: Annotated[
        Path | None, typer.Option(help="file with your API key; none for a fleet without keys")
    ] = None,
) -> None:
    ctx.obj = Target(address, _metadata(key_file), session)


@app.command("ingest")
def ingest(
    ctx: typer.Context,
    file: Path,
    document: Annotated[str, typer.Option(help="name of the document; the file's without it")] = "",
) -> int:
    """Read a text file into the session; an interrupted one goes on where it was."""
    text = _text_of(file)
    name = document or file.name
    return _call(ctx.obj, lambda stub, target: _ingest(stub, target, name, text))


@app.command("ask")
def ask(
    ctx: typer.Context,
    question: str,
    *,
    hops: Annotated[int, typer.Option(min=1, max=2, help="hops of the retrieval")] = 2,
    max_tokens: Annotated[int, typer.Option(min=0, max=256, help="0 prints citations alone")] = 48,
) -> int:
    """Ask a question; prints the answer and the cited spans. Exit code 1 if nothing is found."""
    request = pb.QueryRequest(
        session=ctx.obj.session, question=question, hops=hops, max_tokens=max_tokens
    )
    return _call(ctx.obj, lambda stub, target: _ask(stub, target, request))


@app.command("coverage")
def coverage(ctx: typer.Context) -> int:
    """Print the documents of the session and how much of them is kept."""
    return _call(ctx.obj, _coverage)


@app.command("forget")
def forget(
    ctx: typer.Context,
    document: Annotated[str, typer.Option(help="document; the whole session without it")] = "",
) -> int:
    """Forget a document or the session."""
    request = pb.ForgetRequest(session=ctx.obj.session, document=document)
    return _call(ctx.obj, lambda stub, target: _forget(stub, target, request))


def _ingest(stub: Any, target: Target, name: str, text: str) -> int:
    offset = _acknowledged(stub, target, name)

    def messages() -> Iterator[pb.IngestRequest]:
        head = pb.IngestHead(session=target.session, document=name, offset=offset)
        yield pb.IngestRequest(head=head)
        for at in range(offset, len(text), PART_CHARS):
            yield pb.IngestRequest(text=text[at : at + PART_CHARS])
        yield pb.IngestRequest(end=True)

    for one in stub.Ingest(messages(), metadata=target.metadata, timeout=_TIMEOUT_S):
        print(
            f"\r{one.acknowledged:,} of {len(text):,} characters, {one.kept:,} of "
            f"{one.sentences:,} sentences kept",
            end="",
            file=sys.stderr,
        )
    print(file=sys.stderr)
    print(f"{name}: {len(text):,} characters are in session {target.session}")
    return YES


def _acknowledged(stub: Any, target: Target, name: str) -> int:
    """Return where an interrupted document goes on; 0 for a new one."""
    try:
        request = pb.CoverageRequest(session=target.session, limit=1)
        found = stub.Coverage(request, metadata=target.metadata, timeout=_TIMEOUT_S)
    except grpc.RpcError as err:
        if details_of(err).code is grpc.StatusCode.NOT_FOUND:
            return 0
        raise
    return sum(one.characters for one in found.documents if one.name == name and not one.complete)


def _ask(stub: Any, target: Target, request: pb.QueryRequest) -> int:
    spans, outcome = [], pb.Outcome()
    for one in stub.Query(request, metadata=target.metadata, timeout=_TIMEOUT_S):
        if one.HasField("span"):
            spans.append(one.span)
        else:
            outcome = one.outcome
    if not outcome.found:
        print(f"not found (confidence {outcome.confidence:.2f})")
        return NO
    print(f"{outcome.answer or 'found'} (confidence {outcome.confidence:.2f})")
    for one in spans:
        mark = ", superseded" if one.superseded else ""
        quoted = " ".join(one.text.split())
        print(f"  {one.document}:{one.begin}-{one.end} (hop {one.hop}{mark}): {quoted}")
    return YES


def _coverage(stub: Any, target: Target) -> int:
    request = pb.CoverageRequest(session=target.session, limit=1)
    found = stub.Coverage(request, metadata=target.metadata, timeout=_TIMEOUT_S)
    for one in found.documents:
        state = "complete" if one.complete else "open"
        print(f"{one.name}: {one.characters:,} characters, {state}")
    print(
        f"{found.kept:,} of {found.sentences:,} sentences are kept in {found.budget_bytes:,} bytes"
    )
    return YES


def _forget(stub: Any, target: Target, request: pb.ForgetRequest) -> int:
    forgotten = stub.Forget(request, metadata=target.metadata, timeout=_TIMEOUT_S)
    print(f"{forgotten.sentences:,} sentences are forgotten")
    return YES


def _call(target: Target, run: Any) -> int:
    """Run a command with a stub; a refusal is its text and exit code 1.

    Raises:
        UnavailableError: The mission cannot be reached.
    """
    try:
        with service_channel("memory", target.address) as channel:
            result: int = run(rpc.MemoryServiceStub(channel), target)
    except grpc.RpcError as err:
        print(f"refused: {details_of(err).message}", file=sys.stderr)
        return NO
    return result


def _metadata(key_file: Path | None) -> Metadata:
    if key_file is None:
        return ()
    try:
        key = key_file.read_text().strip()
    except OSError as err:
        raise InvalidArgumentError(
            "key-file", f"{key_file.name}: {err.strerror}; name a file with a key"
        ) from err
    return ((AUTHORIZATION, bearer(key)),)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidArgumentError(
            "file", f"{file.name}: is no readable UTF-8 text ({type(err).__name__}); convert it"
        ) from err

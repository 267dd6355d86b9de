"""``fleetctl memory``: documents of mission memory and questions about them, over gRPC."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from bemfleet.memory.v1 import memory_pb2 as pb
from bemfleet.memory.v1 import memory_pb2_grpc as rpc
from fleet.access.own_key import Metadata
from fleet.errors import InvalidArgumentError, details_of
from rich.console import Console
from rich.progress import Progress

from bem_fleet.cli.application import NO
from bem_fleet.cli.operator_channel import calls_services, service_channel
from bem_fleet.cli.operator_key import user_metadata
from bem_fleet.cli.reports import Report

PART_CHARS = 16_384
"""Characters of a text; progress is shown after each."""

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
        address: ``host:port`` of its sidecar; empty finds it.
        metadata: Key that the caller gives; empty for none.
        session: Name of the session.
    """

    address: str
    metadata: Metadata
    session: str


@app.callback()
def _options(
    ctx: typer.Context,
    address: Annotated[
        str, typer.Option(help="host:port of the mission; this machine's without it")
    ] = "",
    session: Annotated[str, typer.Option(help="name of the session")] = "default",
    key_file: Annotated[
        Path | None,
        typer.Option(help="file with your API key; without it none, and in a cluster user.key"),
    ] = None,
) -> None:
    ctx.obj = Target(address, user_metadata(key_file), session)


@app.command("ingest")
@calls_services
def ingest(
    ctx: typer.Context,
    file: Path,
    document: Annotated[str, typer.Option(help="name of the document; the file's without it")] = "",
) -> Report:
    """Read a text file into the session; an interrupted one goes on where it was."""
    text = _text_of(file)
    name = document or file.name
    return _call(ctx.obj, lambda stub, target: _ingest(stub, target, name, text))


@app.command("ask")
@calls_services
def ask(
    ctx: typer.Context,
    question: str,
    *,
    hops: Annotated[int, typer.Option(min=1, max=2, help="hops of the retrieval")] = 2,
    max_tokens: Annotated[int, typer.Option(min=0, max=256, help="0 prints citations alone")] = 48,
) -> Report:
    """Ask a question; prints the answer and the cited spans. Exit code 1 if nothing is found."""
    request = pb.QueryRequest(
        session=ctx.obj.session, question=question, hops=hops, max_tokens=max_tokens
    )
    return _call(ctx.obj, lambda stub, target: _ask(stub, target, request))


@app.command("coverage")
@calls_services
def coverage(ctx: typer.Context) -> Report:
    """Print the documents of the session and how much of them is kept."""
    return _call(ctx.obj, _coverage)


@app.command("forget")
@calls_services
def forget(
    ctx: typer.Context,
    document: Annotated[str, typer.Option(help="document; the whole session without it")] = "",
) -> Report:
    """Forget a document or the session."""
    request = pb.ForgetRequest(session=ctx.obj.session, document=document)
    return _call(ctx.obj, lambda stub, target: _forget(stub, target, request))


def _ingest(stub: Any, target: Target, name: str, text: str) -> Report:
    offset = _acknowledged(stub, target, name)

    def messages() -> Iterator[pb.IngestRequest]:
        head = pb.IngestHead(session=target.session, document=name, offset=offset)
        yield pb.IngestRequest(head=head)
        for at in range(offset, len(text), PART_CHARS):
            yield pb.IngestRequest(text=text[at : at + PART_CHARS])
        yield pb.IngestRequest(end=True)

    last = pb.IngestResponse()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=len(text), completed=offset)
        for last in stub.Ingest(messages(), metadata=target.metadata, timeout=_TIMEOUT_S):
            progress.update(task, completed=last.acknowledged)
    kept = f"{last.kept:,} of {last.sentences:,} sentences are kept"
    line = f"{name}: {len(text):,} characters are in session {target.session}; {kept}"
    return Report(last, [line])


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


def _ask(stub: Any, target: Target, request: pb.QueryRequest) -> Report:
    spans, outcome = [], pb.Outcome()
    for one in stub.Query(request, metadata=target.metadata, timeout=_TIMEOUT_S):
        if one.HasField("span"):
            spans.append(one.span)
        else:
            outcome = one.outcome
    data = {"outcome": outcome, "spans": spans}
    if not outcome.found:
        return Report(data, [f"not found (confidence {outcome.confidence:.2f})"], NO)
    lines = [f"{outcome.answer or 'found'} (confidence {outcome.confidence:.2f})"]
    for one in spans:
        mark = ", superseded" if one.superseded else ""
        quoted = " ".join(one.text.split())
        lines.append(f"  {one.document}:{one.begin}-{one.end} (hop {one.hop}{mark}): {quoted}")
    return Report(data, lines)


def _coverage(stub: Any, target: Target) -> Report:
    request = pb.CoverageRequest(session=target.session, limit=1)
    found = stub.Coverage(request, metadata=target.metadata, timeout=_TIMEOUT_S)
    lines = []
    for one in found.documents:
        state = "complete" if one.complete else "open"
        lines.append(f"{one.name}: {one.characters:,} characters, {state}")
    lines.append(
        f"{found.kept:,} of {found.sentences:,} sentences are kept in {found.budget_bytes:,} bytes"
    )
    return Report(found, lines)


def _forget(stub: Any, target: Target, request: pb.ForgetRequest) -> Report:
    forgotten = stub.Forget(request, metadata=target.metadata, timeout=_TIMEOUT_S)
    return Report(forgotten, [f"{forgotten.sentences:,} sentences are forgotten"])


def _call(target: Target, run: Callable[[Any, Target], Report]) -> Report:
    """Run a command with a stub and the caller's key.

    Raises:
        UnavailableError: The mission cannot be reached.
    """
    with service_channel("memory", target.address, key="user") as (channel, key):
        called = replace(target, metadata=target.metadata or key)
        return run(rpc.MemoryServiceStub(channel), called)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidArgumentError(
            "file", f"{file.name}: is no readable UTF-8 text ({type(err).__name__}); convert it"
        ) from err

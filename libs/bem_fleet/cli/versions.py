"""``fleetctl versions``: what mission online has learned, and what a person decides about it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer
from bemfleet.online.v1 import online_pb2 as pb
from bemfleet.online.v1 import online_pb2_grpc as rpc
from fleet.access.own_key import Metadata

from bem_fleet.cli.operator_channel import calls_services, service_channel
from bem_fleet.cli.reports import Report, Table

_TIMEOUT_S, _FORGET_TIMEOUT_S = 60.0, 660.0
_STATE = "VERSION_STATE_"

app = typer.Typer(
    no_args_is_help=True,
    help="List, promote, restore and hold learned versions, and forget a user. Exit code 0 if it "
    "is done, 1 if the mission refuses, 2 if it cannot be reached.",
)


@dataclass(frozen=True)
class _OnlineMission:
    address: str


@app.callback()
def _options(
    ctx: typer.Context,
    address: Annotated[
        str, typer.Option(help="host:port of the mission's sidecar; this machine's without it")
    ] = "",
) -> None:
    ctx.obj = _OnlineMission(address)


@app.command("list")
@calls_services
def list_versions(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=200, help="newest versions")] = 20,
) -> Report:
    """Print the versions, newest first, with the last decision about each."""

    def call(mission: rpc.OnlineServiceStub, key: Metadata) -> Report:
        request = pb.VersionsRequest(limit=limit)
        found = mission.Versions(request, timeout=_TIMEOUT_S, metadata=key)
        heading = ("version", "from", "state", "events", "condition", "time", "by", "reason")
        rows = [heading, *(_row(one) for one in found.versions)]
        held = "; promotions are held" if found.held else ""
        return Report(found, [Table(rows), f"live: {found.live or 'base model'}{held}"])

    return _call(ctx.obj.address, call)


@app.command("status")
@calls_services
def status(ctx: typer.Context) -> Report:
    """Print what is served and what each family of feedback lacks for a change."""

    def call(mission: rpc.OnlineServiceStub, key: Metadata) -> Report:
        found = mission.Status(pb.StatusRequest(), timeout=_TIMEOUT_S, metadata=key)
        lines = [f"live: {found.live or 'base model'}, {found.conditions} conditions"]
        lines += ["promotions are held"] if found.held else []
        lines += [f"not learning: {found.not_learning}"] if found.not_learning else []
        counts = ", ".join(f"{name} {count}" for name, count in sorted(found.feedback.items()))
        lines.append(f"feedback: {counts or 'none'}")
        rows = [("family", "events", "lacks")]
        rows += [(one.name, str(one.events), one.lacks or "nothing") for one in found.families]
        return Report(found, [*lines, *([Table(rows)] if found.families else [])])

    return _call(ctx.obj.address, call)


@app.command("promote")
@calls_services
def promote(
    ctx: typer.Context, version: int, reason: Annotated[str, typer.Option()] = ""
) -> Report:
    """Make a version live that waits in shadow."""

    def call(mission: rpc.OnlineServiceStub, key: Metadata) -> Report:
        request = pb.PromoteRequest(version=version, reason=reason)
        done = mission.Promote(request, timeout=_TIMEOUT_S, metadata=key)
        return Report(done, [f"version {done.version.number} is live"])

    return _call(ctx.obj.address, call)


@app.command("restore")
@calls_services
def restore(
    ctx: typer.Context, version: int, reason: Annotated[str, typer.Option()] = ""
) -> Report:
    """Make a version live that was live before; 0 is the base model."""

    def call(mission: rpc.OnlineServiceStub, key: Metadata) -> Report:
        request = pb.RestoreRequest(version=version, reason=reason)
        done = mission.Restore(request, timeout=_TIMEOUT_S, metadata=key)
        live = f"version {done.live}" if done.live else "the base model"
        return Report(done, [f"{live} is live"])

    return _call(ctx.obj.address, call)


@app.command("hold")
@calls_services
def hold(ctx: typer.Context) -> Report:
    """Let new versions wait in shadow until a person promotes them."""
    return _call(ctx.obj.address, lambda mission, key: _hold(mission, key, held=True))


@app.command("release")
@calls_services
def release(ctx: typer.Context) -> Report:
    """Let versions that pass the gate become live by themselves."""
    return _call(ctx.obj.address, lambda mission, key: _hold(mission, key, held=False))


@app.command("explain")
@calls_services
def explain(ctx: typer.Context, answer: str) -> Report:
    """Print which feedback changed an answer: its id, or a prompt as it is answered now."""

    def call(mission: rpc.OnlineServiceStub, key: Metadata) -> Report:
        named = answer.startswith("answer-")
        request = pb.ExplainRequest(**{"answer_id" if named else "prompt": answer})
        found = mission.Explain(request, timeout=_TIMEOUT_S, metadata=key)
        if not found.condition:
            return Report(found, ["no feedback changed it: the base model answers"])
        lines = [f"version {found.version}, condition {found.condition}, {found.users} people"]
        lines += [f"  {one.id} {one.kind or 'no longer kept'}" for one in found.events]
        lines += [f"  {_decision(one)}" for one in found.history]
        return Report(found, lines)

    return _call(ctx.obj.address, call)


@app.command("forget")
@calls_services
def forget(
    ctx: typer.Context,
    client: Annotated[str, typer.Option(help="name of the API key")] = "anonymous",
    user: Annotated[str, typer.Option(help="end user as the client names it")] = "",
    tenant: Annotated[str, typer.Option(help="tenant of the API key")] = "",
) -> Report:
    """Forget a user: feedback, and every version that was learned from it."""

    def call(mission: rpc.OnlineServiceStub, key: Metadata) -> Report:
        request = pb.ForgetRequest(client=client, user=user, tenant=tenant)
        done = mission.Forget(request, timeout=_FORGET_TIMEOUT_S, metadata=key)
        withdrawn = ", ".join(map(str, done.withdrawn)) or "none"
        live = done.live or "base model"
        return Report(done, [f"removed: {done.removed}; withdrawn: {withdrawn}; live: {live}"])

    return _call(ctx.obj.address, call)


def _hold(mission: rpc.OnlineServiceStub, key: Metadata, *, held: bool) -> Report:
    done = mission.Hold(pb.HoldRequest(held=held), timeout=_TIMEOUT_S, metadata=key)
    text = "promotions are held" if done.held else "versions that pass the gate are promoted"
    return Report(done, [text])


def _row(one: pb.Version) -> tuple[str, ...]:
    last = one.history[-1] if one.history else pb.HistoryEntry()
    state = pb.VersionState.Name(one.state).removeprefix(_STATE).lower().replace("_", " ")
    events = str(one.events.get(one.changed, 0))
    time = _time(last) if one.history else ""
    number, parent = str(one.number), str(one.parent or "base")
    return (number, parent, state, events, one.changed, time, last.by, last.reason)


def _decision(one: pb.HistoryEntry) -> str:
    return f"{_time(one)} {one.action} by {one.by}: {one.reason}"


def _time(one: pb.HistoryEntry) -> str:
    return datetime.fromtimestamp(one.unix_s, UTC).isoformat(timespec="seconds")


def _call(address: str, call: Callable[[rpc.OnlineServiceStub, Metadata], Report]) -> Report:
    """Call the mission with the operator's key.

    Raises:
        UnavailableError: The mission cannot be reached.
    """
    with service_channel("online", address) as (channel, key):
        return call(rpc.OnlineServiceStub(channel), key)

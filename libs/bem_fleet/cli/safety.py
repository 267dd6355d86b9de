"""``fleetctl safety``: verdicts of a mission's sidecar, and the strength of its safety adapter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer
from bemfleet.safety.v1 import safety_pb2 as pb
from bemfleet.safety.v1 import safety_pb2_grpc as rpc
from fleet.access.own_key import Metadata

from bem_fleet.cli.application import NO, YES
from bem_fleet.cli.operator_channel import calls_services, service_channel
from bem_fleet.cli.reports import Report, Table

_TIMEOUT_S = 60.0

app = typer.Typer(
    no_args_is_help=True,
    help="Check texts by a mission's sidecar, and set the strength of its safety adapter. Exit "
    "code 0 if it is done or allowed, 1 if it is refused or withheld, 2 if it cannot be reached.",
)


@dataclass(frozen=True)
class _Sidecar:
    mission: str
    address: str


@app.callback()
def _options(
    ctx: typer.Context,
    mission: Annotated[str, typer.Option(help="mission of the sidecar")] = "router",
    address: Annotated[
        str, typer.Option(help="host:port of the sidecar; this machine's without it")
    ] = "",
) -> None:
    ctx.obj = _Sidecar(mission, address)


@app.command("check")
@calls_services
def check(
    ctx: typer.Context,
    text: str,
    *,
    request: Annotated[bool, typer.Option("--request", help="judge it as a client's text")] = False,
    prompt: Annotated[str, typer.Option(help="request that the text answers")] = "",
) -> Report:
    """Print the verdict that a text would get in a call; exit code 1 if it would be withheld."""
    side = pb.SIDE_REQUEST if request else pb.SIDE_RESPONSE

    def call(sidecar: rpc.SafetyServiceStub, key: Metadata) -> Report:
        wanted = pb.CheckRequest(text=text, side=side, prompt=prompt)
        found = sidecar.Check(wanted, timeout=_TIMEOUT_S, metadata=key)
        action = pb.Action.Name(found.action).removeprefix("ACTION_").lower()
        rows = [("scorer", "constraint", "score", "threshold", "violated")]
        for one in found.scores:
            violated = "yes" if one.violated else "no"
            numbers = (f"{one.score:.3f}", f"{one.threshold:.3f}", violated)
            rows.append((one.category, one.constraint, *numbers))
        passes = found.action in (pb.ACTION_ALLOW, pb.ACTION_REDACT)
        redacted = [f"redacted: {found.text}"] if found.action == pb.ACTION_REDACT else []
        head = f"{action}, overall {found.overall:.3f}, policy {found.policy}"
        return Report(found, [head, Table(rows), *redacted], YES if passes else NO)

    return _call(ctx.obj, call)


@app.command("strength")
@calls_services
def strength(
    ctx: typer.Context,
    value: Annotated[float, typer.Argument(min=0, max=1, help="0 is off, 1 is full")],
    *,
    floor: Annotated[
        float | None, typer.Option(min=0, max=1, help="least strength of any request")
    ] = None,
    tenant: Annotated[str, typer.Option(help="tenant; all without a value of their own")] = "",
) -> Report:
    """Set the strength of the safety adapter: at once, audited and durable."""

    def call(sidecar: rpc.SafetyServiceStub, key: Metadata) -> Report:
        wanted = pb.SetStrengthRequest(tenant=tenant, value=value, floor=floor)
        done = sidecar.SetStrength(wanted, timeout=_TIMEOUT_S, metadata=key)
        text = f"{ctx.obj.mission}: strength {done.value:.6g}, floor {done.floor:.6g}"
        return Report(done, [text])

    return _call(ctx.obj, call)


def _call(sidecar: _Sidecar, call: Callable[[rpc.SafetyServiceStub, Metadata], Report]) -> Report:
    with service_channel(sidecar.mission, sidecar.address) as (channel, key):
        return call(rpc.SafetyServiceStub(channel), key)

"""``fleetctl canary``: canaries over ``FleetService``, on one machine as in a cluster."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.errors import InvalidArgumentError
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from bem_fleet.cli.canary_explanation import explanation_from_message, format_explanation
from bem_fleet.cli.canary_table import format_canary, from_message
from bem_fleet.cli.operator_channel import calls_services, service_channel
from bem_fleet.cli.reports import Report

COMMANDS = ("pause", "resume", "promote", "abort")
"""Commands that steer a running canary."""

_TIMEOUT_S = 10.0
_DEFAULT_STEP_S = 60
Options = Mapping[str, Any]
Call = Callable[[rpc.FleetServiceStub, Options], Report]

app = typer.Typer(
    no_args_is_help=True,
    help="Start and steer canaries through the orchestrator: of adapters everywhere, of images in "
    "a cluster. Exit code 0 if it accepts the command, 1 if it refuses, 2 if it cannot be reached.",
)


@dataclass(frozen=True)
class Orchestrator:
    """Address and namespace of the missions.

    Attributes:
        address: ``host:port`` of the orchestrator; empty finds it.
        namespace: Namespace of the missions; empty for the orchestrator's own.
    """

    address: str
    namespace: str


@app.callback()
def _options(
    ctx: typer.Context,
    address: Annotated[
        str, typer.Option(help="host:port of the orchestrator; this machine's without it")
    ] = "",
    namespace: Annotated[
        str, typer.Option(help="namespace of the missions; empty for the orchestrator's own")
    ] = "",
) -> None:
    ctx.obj = Orchestrator(address, namespace)


@app.command("start")
@calls_services
def start(
    ctx: typer.Context,
    mission: str,
    *,
    model: Annotated[str, typer.Option(help="adapter to test in the same process")] = "",
    image: Annotated[str, typer.Option(help="image to test in a second Deployment")] = "",
    step: Annotated[list[str] | None, typer.Option(help="weight:seconds; repeatable")] = None,
    shadow: Annotated[int | None, typer.Option(help="percent of mirrored requests")] = None,
    attempt: Annotated[
        int | None, typer.Option(help="number to raise to test the same candidate again")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="YAML of spec.canary: analysis, probes and margins")
    ] = None,
) -> Report:
    """Start a canary of an adapter or an image."""
    canary = specification(
        spec, model=model, image=image, steps=step or [], shadow=shadow, attempt=attempt
    )
    try:
        message = ParseDict(dict(canary), Struct())
    except ParseError as err:
        raise InvalidArgumentError("spec", str(err)) from err
    request = pb.StartCanaryRequest(namespace=ctx.obj.namespace, name=mission, canary=message)

    def call(fleet: rpc.FleetServiceStub, options: Options) -> Report:
        started = fleet.StartCanary(request, **options)
        return Report(started, [f"canary {started.id}"])

    return _call(ctx.obj, call)


@app.command("pause")
@calls_services
def pause(ctx: typer.Context, mission: str) -> Report:
    """Hold a canary at its step."""
    return _steer(ctx.obj, mission, "pause")


@app.command("resume")
@calls_services
def resume(ctx: typer.Context, mission: str) -> Report:
    """Continue a paused canary."""
    return _steer(ctx.obj, mission, "resume")


@app.command("promote")
@calls_services
def promote(ctx: typer.Context, mission: str) -> Report:
    """Promote a canary without waiting for its analysis."""
    return _steer(ctx.obj, mission, "promote")


@app.command("abort")
@calls_services
def abort(ctx: typer.Context, mission: str) -> Report:
    """Roll a canary back."""
    return _steer(ctx.obj, mission, "abort")


@app.command("status")
@calls_services
def status(ctx: typer.Context, mission: str) -> Report:
    """Print a mission's canary."""
    request = pb.GetMissionRequest(namespace=ctx.obj.namespace, name=mission)

    def call(fleet: rpc.FleetServiceStub, options: Options) -> Report:
        found = fleet.GetMission(request, **options).mission
        data: Any = found.canary if found.HasField("canary") else {}
        return Report(data, [format_canary(found.name, from_message(found))])

    return _call(ctx.obj, call)


@app.command("explain")
@calls_services
def explain(ctx: typer.Context, mission: str) -> Report:
    """Print what the analysis has shown, its terms, and after how many pairs harm is found."""
    request = pb.GetMissionRequest(namespace=ctx.obj.namespace, name=mission)

    def call(fleet: rpc.FleetServiceStub, options: Options) -> Report:
        found = fleet.GetMission(request, **options).mission
        explanation = explanation_from_message(found)
        return Report(asdict(explanation), [format_explanation(explanation)])

    return _call(ctx.obj, call)


def specification(
    file: Path | None, *, model: str, image: str, steps: list[str], **numbers: int | None
) -> dict[str, Any]:
    """Return ``spec.canary``: the content of a file, overridden by the command line.

    Args:
        file: YAML with the content of ``spec.canary`` of a Mission.
        model: Adapter to test; empty keeps the file's.
        image: Image to test; empty keeps the file's.
        steps: Steps, each ``weight:seconds``; none keeps the file's.
        numbers: Numbers by key; None keeps the file's.

    Raises:
        InvalidArgumentError: The file is no mapping, or a step is not ``weight:seconds``.
    """
    content = yaml.safe_load(file.read_text()) if file else {}
    if not isinstance(content, Mapping):
        raise InvalidArgumentError("spec", f"{file} is not a mapping; write keys of spec.canary")
    given: dict[str, Any] = {"model": model, "image": image, "steps": read_steps(steps), **numbers}
    overrides = {key: value for key, value in given.items() if value not in (None, "", [])}
    return {**content, **overrides}


def read_steps(texts: list[str]) -> list[dict[str, int]]:
    """Read steps of the form ``weight:seconds``; the seconds default to 60.

    Raises:
        InvalidArgumentError: A text is not of that form.
    """
    steps = []
    for text in texts:
        weight, _, seconds = text.partition(":")
        try:
            steps.append({"weight": int(weight), "seconds": int(seconds or _DEFAULT_STEP_S)})
        except ValueError as err:
            problem = f"{text!r} is not weight:seconds; write for example 10:60"
            raise InvalidArgumentError("step", problem) from err
    return steps


def _steer(where: Orchestrator, mission: str, command: str) -> Report:
    value = pb.CanaryCommand.Value(f"CANARY_COMMAND_{command.upper()}")
    request = pb.SteerCanaryRequest(namespace=where.namespace, name=mission, command=value)

    def call(fleet: rpc.FleetServiceStub, options: Options) -> Report:
        fleet.SteerCanary(request, **options)
        return Report({"mission": mission, "command": command}, [f"{mission}: {command} requested"])

    return _call(where, call)


def _call(where: Orchestrator, call: Call) -> Report:
    """Call the orchestrator with the operator's key.

    Raises:
        UnavailableError: The orchestrator cannot be reached.
    """
    with service_channel("orchestrator", where.address) as (channel, key):
        return call(rpc.FleetServiceStub(channel), {"timeout": _TIMEOUT_S, "metadata": key})

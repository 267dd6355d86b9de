"""Canaries over ``FleetService``: on one machine as in a cluster, without kubectl."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import yaml
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.errors import InvalidArgumentError, UnavailableError, details_of
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from bem_fleet.cli.kubectl_bem import read_step

_TIMEOUT_S = 10.0
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
Call = Callable[[rpc.FleetServiceStub], str]


def specification(
    file: Path | None, *, model: str, image: str, steps: list[str], **more: int | None
) -> dict[str, Any]:
    """Return ``spec.canary``: what a file holds, with what the command line says in its place.

    Args:
        file: YAML, as ``spec.canary`` of a Mission.
        model: Adapter to try; empty: the file's.
        image: Image to try; empty: the file's.
        steps: Each ``weight:seconds``.
        more: Numbers by key; None: the file's.

    Raises:
        InvalidArgumentError: The file holds no mapping, or a step is no pair of numbers.
    """
    found = yaml.safe_load(file.read_text()) if file else {}
    if not isinstance(found, dict):
        raise InvalidArgumentError("spec", f"{file} holds no mapping")
    try:
        shares = [read_step(text) for text in steps]
    except ValueError as err:
        raise InvalidArgumentError("step", str(err)) from err
    given: dict[str, Any] = {"model": model, "image": image, "steps": shares}
    given.update(more)
    return {**found, **{key: value for key, value in given.items() if value not in (None, "", [])}}


def start(address: str, namespace: str, mission: str, canary: Mapping[str, Any]) -> int:
    """Start a canary; exit status 0 once it is asked for, 1 if it is refused."""
    try:
        wanted = ParseDict(dict(canary), Struct())
    except ParseError as err:
        raise InvalidArgumentError("spec", str(err)) from err
    request = pb.StartCanaryRequest(namespace=namespace, name=mission, canary=wanted)
    return _called(address, lambda fleet: f"canary {fleet.StartCanary(request, **_LIMIT).id}")


def steer(address: str, namespace: str, mission: str, verb: str) -> int:
    """Pause, resume, promote or abort; exit status 0 once it is asked for, 1 if it is refused."""
    command = pb.CanaryCommand.Value(f"CANARY_COMMAND_{verb.upper()}")
    request = pb.SteerCanaryRequest(namespace=namespace, name=mission, command=command)

    def call(fleet: rpc.FleetServiceStub) -> str:
        fleet.SteerCanary(request, **_LIMIT)
        return f"{verb} asked"

    return _called(address, call)


def show(address: str, namespace: str, mission: str) -> int:
    """Print a mission's canary."""
    request = pb.GetMissionRequest(namespace=namespace, name=mission)
    return _called(address, lambda fleet: table(fleet.GetMission(request, **_LIMIT).mission))


def table(mission: pb.Mission) -> str:
    """Return a mission's canary for people."""
    if not mission.HasField("canary"):
        return f"{mission.name}: no canary yet"
    canary = mission.canary
    rows = [
        ("mission", mission.name),
        ("tries", canary.candidate),
        ("phase", f"{canary.phase}{' (paused)' if canary.paused else ''}"),
        ("because", canary.reason),
        ("step", str(canary.step)),
        ("stable / canary", f"{100 - canary.weight} / {canary.weight} %"),
        ("mirrored", f"{canary.mirror} %"),
        ("gate", f"{canary.verdict} after {canary.pairs} pairs"),
    ]
    return "\n".join(f"{key:<16} {value}" for key, value in rows)


_LIMIT: dict[str, Any] = {"timeout": _TIMEOUT_S}


def _called(address: str, call: Call) -> int:
    with grpc.insecure_channel(address) as channel:
        try:
            print(call(rpc.FleetServiceStub(channel)))
        except grpc.RpcError as err:
            found = details_of(err)
            if found.code in _AWAY:
                raise UnavailableError(f"orchestrator at {address}: {found.message}") from err
            print(f"{found.code.name}: {found.message}")
            return 1
    return 0

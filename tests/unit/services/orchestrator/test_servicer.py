"""FleetService over missions in files."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from bem_fleet.services.orchestrator.kube.api import InvalidError
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.servicer import FleetServicer
from bemfleet.fleet.v1 import fleet_pb2 as pb
from fleet.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from fleet.files import write_json_atomic
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from tests.unit.services.orchestrator.missions import SCHEMA, canary_spec

CONTEXT = cast("Any", None)
STATUS = "/apis/fleet.bem.dev/v1alpha1/namespaces/here/missions/any/status"


@pytest.fixture
def files(tmp_path: Path) -> MissionFiles:
    """A folder with one mission."""
    spec = {"model": "qa"}
    write_json_atomic(tmp_path / "any.json", {"metadata": {"name": "any"}, "spec": spec})
    return MissionFiles(tmp_path, SCHEMA, "here")


@pytest.fixture
def servicer(files: MissionFiles) -> FleetServicer:
    """The service over that folder."""
    return FleetServicer(files, "here", lambda _, service: f"{service}:1", lambda: True)


def start(name: str = "any", **canary: Any) -> pb.StartCanaryRequest:
    """Return a request."""
    return pb.StartCanaryRequest(name=name, canary=ParseDict(canary, Struct()))


async def test_a_canary_is_written_with_defaults(
    files: MissionFiles, servicer: FleetServicer
) -> None:
    """The id is known before the schema has completed the rest; a second one replaces the first."""
    first = await servicer.StartCanary(start(model="v2", shadow=10), CONTEXT)
    await servicer.StartCanary(start(model="v3"), CONTEXT)
    mission = files.get_mission("here/any")

    assert first.id == canary_spec(model="v2").id
    assert mission is not None
    assert mission.canary is not None
    assert (mission.canary.model, mission.canary.shadow, mission.canary.ready_s) == ("v3", 0, 600)


async def test_one_canary_at_a_time_and_none_twice(
    files: MissionFiles, servicer: FleetServicer
) -> None:
    """A running canary is aborted first; an ended one needs another attempt."""
    identity = canary_spec(model="v2").id
    errors = []
    for phase in ("Canary", "RolledBack"):
        canary = {"id": identity, "phase": phase}
        await files.merge_patch(STATUS, {"status": {"canary": canary}})
        with pytest.raises(FailedPreconditionError) as caught:
            await servicer.StartCanary(start(model="v2"), CONTEXT)
        errors.append(str(caught.value))
    again = await servicer.StartCanary(start(model="v2", attempt=1), CONTEXT)

    assert "in progress (Canary)" in errors[0]
    assert "raise attempt" in errors[1]
    assert again.id != identity


async def test_wrong_requests_are_named(servicer: FleetServicer) -> None:
    """Nothing to try, a field that the schema refuses, an unknown mission or command."""
    with pytest.raises(InvalidArgumentError, match="exactly one of image or model"):
        await servicer.StartCanary(start(shadow=1), CONTEXT)
    with pytest.raises(InvalidError, match=r"spec\.canary\.shadow: 101"):
        await servicer.StartCanary(start(model="v2", shadow=101), CONTEXT)
    with pytest.raises(NotFoundError, match="missions: here/any"):
        await servicer.GetMission(pb.GetMissionRequest(name="none"), CONTEXT)
    with pytest.raises(InvalidArgumentError, match="pause, resume, promote, abort"):
        await servicer.SteerCanary(pb.SteerCanaryRequest(name="any"), CONTEXT)
    command = pb.CANARY_COMMAND_ABORT
    with pytest.raises(FailedPreconditionError, match="no canary in progress"):
        await servicer.SteerCanary(pb.SteerCanaryRequest(name="any", command=command), CONTEXT)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
async def test_numbers_that_json_cannot_hold_are_refused(
    servicer: FleetServicer, number: float
) -> None:
    """A Struct carries them, and a mission's specification cannot."""
    request = start(model="v2")
    request.canary.fields["alpha"].number_value = number
    with pytest.raises(InvalidArgumentError, match="canary: has a value that JSON cannot hold"):
        await servicer.StartCanary(request, CONTEXT)


async def test_routes_are_streamed_at_every_change(
    files: MissionFiles, servicer: FleetServicer
) -> None:
    """The first message is the present; an unrelated change sends none."""
    stream = servicer.WatchRoutes(pb.WatchRoutesRequest(), CONTEXT)
    first = await anext(stream)
    await files.merge_patch(STATUS, {"status": {"phase": "Running"}})
    canary = {"id": "a", "phase": "Canary", "model": "v2", "weight": 25}
    following = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await files.merge_patch(STATUS, {"status": {"canary": canary}})
    second = await asyncio.wait_for(following, 5)
    await cast("Any", stream).aclose()

    assert not first.routes[0].HasField("canary")
    assert (second.routes[0].canary.model, second.routes[0].weight) == ("v2", 25)
    assert files.listeners == set()

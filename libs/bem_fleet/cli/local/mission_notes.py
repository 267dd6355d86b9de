"""Notes on the missions of the local fleet: adapters that are not served, and what is missing."""

import grpc
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc

from bem_fleet.cli.local.plan import Plan
from bem_fleet.descriptors import missions

_TIMEOUT_S = 5.0


def mission_notes(plan: Plan) -> dict[str, list[str]]:
    """Return the notes of each mission that answers; a mission without notes is left out.

    Args:
        plan: Plan of the fleet.
    """
    notes = {}
    for one in missions(plan.services):
        with grpc.insecure_channel(plan.address(one.name)) as channel:
            try:
                found = _notes(rpc.MissionServiceStub(channel))
            except grpc.RpcError:  # the table and the health say that it does not answer
                continue
        if found:
            notes[one.name] = found
    return notes


def _notes(mission: rpc.MissionServiceStub) -> list[str]:
    listed = mission.ListAdapters(pb.ListAdaptersRequest(), timeout=_TIMEOUT_S)
    described = mission.Describe(pb.DescribeRequest(), timeout=_TIMEOUT_S)
    rejected = [f"adapter {one.name} is not served: {one.reason}" for one in listed.rejected]
    return [*rejected, *described.warnings]

"""Notes on missions, from a mission on a real socket."""

from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from bem_fleet.cli.local.mission_notes import mission_notes
from bem_fleet.cli.local.plan import Plan
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet.testing import free_port


class Mission(rpc.MissionServiceServicer):
    """A mission with a rejected folder."""

    def ListAdapters(self, request: Any, context: Any) -> pb.ListAdaptersResponse:  # noqa: N802, ARG002
        """List one rejected folder."""
        rejected = pb.RejectedAdapter(name="bad", reason="scale: 100 is no number")
        return pb.ListAdaptersResponse(rejected=[rejected])

    def Describe(self, request: Any, context: Any) -> pb.DescribeResponse:  # noqa: N802, ARG002
        """Describe what is missing."""
        return pb.DescribeResponse(warnings=["safety adapter: none is loaded"])


def test_rejected_folders_and_warnings_are_noted(tmp_path: Path) -> None:
    """A mission that does not answer has no notes."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    rpc.add_MissionServiceServicer_to_server(Mission(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    found = mission_notes(Plan(run=tmp_path, ports={"ROUTER_PORT": port}))
    server.stop(None)
    absent = mission_notes(Plan(run=tmp_path, ports={"ROUTER_PORT": free_port()}))

    assert found == {
        "router": [
            "adapter bad is not served: scale: 100 is no number",
            "safety adapter: none is loaded",
        ]
    }
    assert absent == {}

"""``fleetctl adapters``: adapters of a running mission."""

# ruff: noqa: ARG002, N802 - names and arguments are gRPC's

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from bem_fleet.cli import main
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet.testing import free_port

BASE = pb.Adapter(name="base", version="b" * 64, base=True)
ALPHA = pb.Adapter(name="alpha", version="a" * 64, rank=8, projection=pb.PROJECTION_EXACT)
BETA = pb.Adapter(
    name="beta",
    version="c" * 64,
    rank=8,
    projection=pb.PROJECTION_APPLIED,
    projection_logit_difference=0.671,
)
BAD = pb.RejectedAdapter(name="bad", reason="bad/card.json is not JSON")


class Mission(rpc.MissionServiceServicer):
    """A mission with one adapter that can be loaded."""

    def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        """Describe what is missing."""
        return pb.DescribeResponse(warnings=["safety adapter: none is loaded"])

    def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        """Answer nothing."""
        return pb.ProbeResponse()

    def ListAdapters(
        self,
        request: pb.ListAdaptersRequest,
        context: Any,
    ) -> pb.ListAdaptersResponse:
        """List the base model, two adapters and a rejected folder."""
        return pb.ListAdaptersResponse(
            adapters=[BASE, ALPHA, BETA], context_tokens=512, rejected=[BAD]
        )

    def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Any) -> pb.LoadAdapterResponse:
        """Load the adapter that exists."""
        if request.name != "alpha":
            context.abort(grpc.StatusCode.NOT_FOUND, f"name: there is no adapter {request.name!r}")
        return pb.LoadAdapterResponse(adapter=ALPHA)

    def UnloadAdapter(
        self,
        request: pb.UnloadAdapterRequest,
        context: Any,
    ) -> pb.UnloadAdapterResponse:
        """Unload any adapter."""
        return pb.UnloadAdapterResponse()


@pytest.fixture
def address() -> Iterator[str]:
    """Address of a served mission."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    rpc.add_MissionServiceServicer_to_server(Mission(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_list_names_base_and_adapters(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, version and rank of each, and the context."""
    assert main(["adapters", "--address", address, "list"]) == 0
    shown = capsys.readouterr().out

    assert "base   bbbbbbbbbbbb  base" in shown
    assert "alpha  aaaaaaaaaaaa  8" in shown
    assert "context: 512 tokens" in shown


def test_list_says_what_is_not_served_as_trained(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Projected adapters, rejected folders and what the mission lacks are named."""
    assert main(["adapters", "--address", address, "list"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}

    assert rows["alpha"].endswith("exact")
    assert rows["beta"].endswith("projected (logits +-0.671)")
    assert "rejected: bad: bad/card.json is not JSON" in shown
    assert "warning: safety adapter: none is loaded" in shown


def test_refusal_is_exit_code_1(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The mission's own message is printed."""
    loaded = main(["adapters", "--address", address, "load", "alpha"])
    unloaded = main(["adapters", "--address", address, "unload", "alpha"])
    refused = main(["adapters", "--address", address, "load", "beta"])

    assert (loaded, unloaded, refused) == (0, 0, 1)
    assert "NOT_FOUND: name: there is no adapter 'beta'" in capsys.readouterr().err


def test_absent_mission_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was refused: the mission could not be reached."""
    address = f"127.0.0.1:{free_port()}"

    assert main(["adapters", "--address", address, "list"]) == 2
    assert f"router at {address}" in capsys.readouterr().err

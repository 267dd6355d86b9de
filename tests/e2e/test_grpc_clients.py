"""gRPC clients of the sidecar: generated stubs, reflection, health, Triton's client."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import psutil
import pytest
from bemfleet.fleet.v1 import fleet_pb2 as fleet_pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as fleet_rpc
from bemfleet.mission.v1 import mission_pb2 as mission_pb
from bemfleet.mission.v1 import mission_pb2_grpc as mission_rpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.errors import details_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.e2e.conftest import Fleet

pytestmark = [pytest.mark.stage("clients"), pytest.mark.e2e, pytest.mark.slow]
SERVICE = "bemfleet.router.v1.RouterService"
MISSION = "bemfleet.mission.v1.MissionService"

TRITON = """
import sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready()
for model in ("smollm2-135m-instruct", "passage-qa"):
    assert client.is_model_ready(model)
    metadata = client.get_model_metadata(model)
    assert metadata.inputs[0].datatype == "BYTES", metadata
    texts = np.array([b"One, two, three,", b"Monday, Tuesday,"], dtype=object)
    tensor = triton.InferInput("text_input", [2], "BYTES")
    tensor.set_data_from_numpy(texts)
    parameters = {"max_tokens": 6, "temperature": 0.0}
    outputs = client.infer(model, [tensor], parameters=parameters).as_numpy("text_output")
    print(model, [text.decode() for text in outputs])
"""


def test_generate_streams_through_the_sidecar(channel: grpc.Channel) -> None:
    """Generated stubs get a stream that ends with finish reason and usage."""
    stub: Any = rpc.RouterServiceStub(channel)
    message = pb.ChatMessage(role="user", content="Tell me a story about a boat.")
    request = pb.GenerateRequest(
        chat=pb.ChatPrompt(messages=[message]),
        sampling=pb.Sampling(temperature=0),
        max_tokens=64,
    )
    answers = list(stub.Generate(request, timeout=60))

    assert len(answers) > 3
    assert "boat" in "".join(answer.text for answer in answers)
    assert answers[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert answers[-1].usage.completion_tokens == 64


def test_reflection_lists_every_service(channel: grpc.Channel) -> None:
    """Reflection lists and describes the services, as grpcurl would show them."""
    database: Any = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    file = database.FindFileContainingSymbol(SERVICE)

    assert {SERVICE, MISSION, "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
    assert "Generate" in [m.name for s in file.service for m in s.method]


def test_health_is_served_for_each_service(channel: grpc.Channel) -> None:
    """Health is SERVING overall and by service name; an unknown name is NOT_FOUND."""
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE, "inference.GRPCInferenceService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_operators_need_the_key_that_up_wrote(fleet: Fleet, channel: grpc.Channel) -> None:
    """Users are open on loopback; adapters and canaries are the operator's, here by key only."""
    stub: Any = mission_rpc.MissionServiceStub(channel)
    request = mission_pb.LoadAdapterRequest(name="passage-qa")
    with pytest.raises(grpc.RpcError) as without:
        stub.LoadAdapter(request, timeout=60)
    with pytest.raises(grpc.RpcError) as wrong:
        stub.ListAdapters(
            mission_pb.ListAdaptersRequest(), metadata=(("authorization", "Bearer wrong"),)
        )
    with grpc.insecure_channel(fleet.orchestrator) as orchestrator:
        plan: Any = fleet_rpc.FleetServiceStub(orchestrator)
        with pytest.raises(grpc.RpcError) as planned:
            plan.GetPlan(fleet_pb.GetPlanRequest(), timeout=60)
        assert plan.GetFleetStatus(
            fleet_pb.GetFleetStatusRequest(), timeout=60, metadata=fleet.operator
        )
    loaded = stub.LoadAdapter(request, timeout=60, metadata=fleet.operator)

    assert loaded.adapter.name == "passage-qa"
    assert fleet.operator_key_file.stat().st_mode & 0o777 == 0o600
    for refused in (without, wrong, planned):
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_unmodified_triton_client_infers(fleet: Fleet) -> None:
    """Triton's client registers its own copy of the protocol, so it runs in its own process."""
    ran = subprocess.run(
        [sys.executable, "-c", TRITON, fleet.sidecar],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ran.returncode == 0, ran.stderr
    assert "four" in ran.stdout


def test_mission_listens_on_no_network_port(fleet: Fleet) -> None:
    """The mission process has no listening socket; the sidecar has one."""
    mission = psutil.Process(fleet.pid("router"))
    listening = [c for c in mission.net_connections("inet") if c.status == psutil.CONN_LISTEN]

    assert not listening
    assert psutil.Process(fleet.pid("router-sidecar")).net_connections("inet")


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b"\x12\x02\xff\xfe", grpc.StatusCode.INVALID_ARGUMENT, "GenerateRequest"),
        (
            pb.GenerateRequest(prompt="x" * 10_000_000).SerializeToString(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "prompt",
        ),
        (b"", grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
        (
            pb.GenerateRequest(prompt="x", max_tokens=0).SerializeToString(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "max_tokens",
        ),
        (
            pb.GenerateRequest(model="none", prompt="x").SerializeToString(),
            grpc.StatusCode.NOT_FOUND,
            None,
        ),
    ],
)
def test_bad_message_gets_its_code(
    channel: grpc.Channel, raw: bytes, code: grpc.StatusCode, field: str | None
) -> None:
    """Invalid UTF-8, 10 MB, an empty prompt, zero and an unknown model get code and field."""
    call: Any = channel.unary_stream(f"/{SERVICE}/Generate")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(raw, timeout=60))
    details = details_of(caught.value)

    assert (details.code, details.field) == (code, field)

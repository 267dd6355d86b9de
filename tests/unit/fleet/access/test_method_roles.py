"""Roles of methods and token counts, from generated and from foreign descriptors."""

import pytest
from bem_fleet.checkout import ROOT
from bemfleet.access.v1 import access_pb2
from bemfleet.common.v1 import text_pb2
from bemfleet.mission.v1 import mission_pb2
from bemfleet.router.v1 import router_pb2 as pb
from fleet.access.method_roles import MethodRoles, TokenCounter, find_generated_method, method_role
from fleet.access.principal import Role
from google.protobuf import descriptor_pb2, descriptor_pool
from inference import open_inference_pb2 as oip

from tests.integration.sample_mission import sample_descriptors
from tools.access_table import rpc_methods


def test_every_method_of_every_proto_states_its_role() -> None:
    """A forgotten option would be an operator's method by default; none is forgotten."""
    silent = [
        method.full_name
        for method in rpc_methods(ROOT)
        if not method.GetOptions().Extensions[access_pb2.role]
    ]

    assert silent == []


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/bemfleet.router.v1.RouterService/Generate", Role.USER),
        ("/bemfleet.mission.v1.MissionService/LoadAdapter", Role.OPERATOR),
        ("/bemfleet.mission.v1.MissionService/Probe", Role.SERVICE),
        ("/inference.GRPCInferenceService/ServerLive", Role.OPEN),
        ("/grpc.health.v1.Health/Check", Role.OPEN),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Role.OPEN),
        ("/grpc.health.v1.HealthX/Check", Role.OPERATOR),
        ("/bemfleet.router.v1.RouterService/Nothing", Role.OPERATOR),
        ("/nobody.v1.S/M", Role.OPERATOR),
        ("nonsense", Role.OPERATOR),
    ],
)
def test_role_of_a_path(path: str, role: Role) -> None:
    """Unknown methods are an operator's."""
    assert MethodRoles().role(path) is role


def test_role_is_read_in_a_foreign_pool() -> None:
    """Descriptors from reflection know no extension classes; one without the option is denied."""
    service = sample_descriptors(without_role="Steer")

    assert method_role(service.methods_by_name["Ask"]) is Role.USER
    assert method_role(service.methods_by_name["Steer"]) is Role.OPERATOR
    pool = descriptor_pool.DescriptorPool()
    known = (descriptor_pb2.DESCRIPTOR, access_pb2.DESCRIPTOR, text_pb2.DESCRIPTOR)
    for file in (*known, mission_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    found = pool.FindServiceByName("bemfleet.mission.v1.MissionService")

    assert method_role(found.methods_by_name["LoadAdapter"]) is Role.OPERATOR
    assert method_role(found.methods_by_name["ListAdapters"]) is Role.USER


def test_marked_fields_count_tokens() -> None:
    """Usage counts once, in the last response of a stream."""
    method = find_generated_method("/bemfleet.router.v1.RouterService/Generate")
    assert method
    counter = TokenCounter(method.output_type)
    last = pb.GenerateResponse(usage=pb.Usage(prompt_tokens=7, completion_tokens=5))

    assert counter.count(pb.GenerateResponse(text="hello")) == 0
    assert counter.count(last) == counter.count(last.SerializeToString()) == 12


def test_text_without_usage_is_charged_by_size() -> None:
    """No protocol is free: the Open Inference Protocol has no usage."""
    counter = TokenCounter(oip.ModelInferResponse.DESCRIPTOR)
    message = oip.ModelInferResponse(raw_output_contents=[b"x" * 400])

    assert counter.count(message) == -(-message.ByteSize() // 4)
    assert TokenCounter(mission_pb2.UnloadAdapterResponse.DESCRIPTOR).count(b"") == 0

"""Health of the local fleet, service by service, as the descriptors describe it."""

from typing import Any

import grpc
import httpx
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from fleet.errors import details_of
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bem_fleet.cli.local.plan import Plan
from bem_fleet.descriptors import Descriptor, missions

_TIMEOUT_S = 5.0


def first_problem(plan: Plan) -> str | None:
    """Return why the fleet does not answer yet, or None once every service is ready."""
    for one in plan.services:
        if one.port is None:
            continue  # the sidecar's health is part of each mission's
        address = plan.address(one.name)
        check = _http_problem if one.protocol == "http" else _grpc_problem
        if problem := check(address, one):
            return f"{one.name}: {problem}"
    return None


def served_models(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return base model and weight format by mission; a mission that does not answer is left out.

    Example: ``{"router": {"base_model": "smollm2-135m-instruct", "weights": "int8"}}``.
    """
    served = {}
    for one in missions(plan.services):
        with grpc.insecure_channel(plan.address(one.name)) as channel:
            stub = mission_pb2_grpc.MissionServiceStub(channel)
            try:
                answer = stub.Describe(mission_pb2.DescribeRequest(), timeout=_TIMEOUT_S)
            except grpc.RpcError:
                continue  # first_problem says why
        served[one.name] = {"base_model": answer.base_model, "weights": answer.weights}
    return served


def _http_problem(address: str, one: Descriptor) -> str | None:  # noqa: ARG001 - one signature
    try:
        answer = httpx.get(f"http://{address}/readyz", timeout=_TIMEOUT_S)
    except httpx.TransportError as err:
        return str(err)
    if answer.is_success:
        return None
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text


def _grpc_problem(address: str, one: Descriptor) -> str | None:
    request = health_pb2.HealthCheckRequest(service=one.health_service)
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as err:
            return str(details_of(err).message)
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return f"{one.health_service} is {status}"

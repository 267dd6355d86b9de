"""Addresses in requests are never dialled: requests name missions, settings have the addresses."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bemfleet
import grpc
import inference
import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from bemfleet.fleet.v1 import fleet_pb2
from bemfleet.safety.v1 import safety_pb2
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.clients import open_channel
from fleet.files import write_json_atomic
from fleet.testing import RedisServer
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.integration.orchestrators import orchestrator
from tests.integration.sidecars import scene
from tests.integration.tracks import ScriptedMission, mission, socket_of
from tests.integration.validations import validation

_ADDRESS_LIKE = re.compile(r"(^|_)(addr|address|url|uri|host|endpoint|upstream|callback|webhook)")
TERMS: dict[str, Any] = {
    "alpha": 0.05,
    "max_pairs": 100,
    "error_margin": 0.1,
    "violation_margin": 0.1,
    "latency_margin": 1.5,
    "quality_margin": 0.1,
    "error_limit": 10,
    "violation_limit": 10,
    "min_answered": 0.9,
    "tail_ratio": 1.25,
    "p95_margin": 0.1,
    "p99_margin": 0.1,
}


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[list[str], int]]:
    """Listen on loopback; yield the connections that were made, and the port."""
    connections: list[str] = []

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(str(writer.get_extra_info("peername")))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield connections, server.sockets[0].getsockname()[1]
    finally:
        server.close()


def targets(port: int) -> tuple[str, ...]:
    """Return the forms of an address that some client would dial."""
    here = f"127.0.0.1:{port}"
    return (here, f"http://{here}/", f"ipv4:{here}", f"dns:///{here}", f"localhost:{port}")


def fill(message: Message, text: str, depth: int = 4) -> Message:
    """Set every string, bytes and message field of a request: each one names the address."""
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof and message.WhichOneof(field.containing_oneof.name):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            continue
        values = _values(field, text, depth)
        if not values:
            continue
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type:
            getattr(message, field.name).CopyFrom(values[0])
        else:
            setattr(message, field.name, values[0])
    return message


def _values(field: Any, text: str, depth: int) -> list[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return [text]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return [text.encode()]
    if field.message_type and depth:
        return [fill(GetMessageClass(field.message_type)(), text, depth - 1)]
    return []


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message) -> None:
    """Call a method and read its answer; an error is an answer too."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = "stream" if method.client_streaming else "unary"
    kind += "_stream" if method.server_streaming else "_unary"
    stub = getattr(channel, kind)(path)
    raw: Any = request.SerializeToString()
    answer = stub(iter([raw]) if method.client_streaming else raw, timeout=5)
    try:
        if method.server_streaming:
            await anext(aiter(answer), None)
        else:
            await answer
    except grpc.RpcError:
        return
    finally:
        answer.cancel()


async def call_all(address: str, service: Any, port: int) -> int:
    """Call every method of a service with every form of the address; return the number of calls."""
    calls = 0
    async with open_channel(address) as channel:
        for method in service.methods:
            for text in targets(port):
                request = fill(GetMessageClass(method.input_type)(), text)
                await call(channel, method, request)
                calls += 1
    return calls


def all_services() -> Iterator[Any]:
    """Yield the descriptor of every service of the fleet's protos."""
    for package in (bemfleet, inference):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("_pb2"):
                descriptor = importlib.import_module(found.name).DESCRIPTOR
                yield from descriptor.services_by_name.values()


def fields_of(message: Descriptor, path: str = "", depth: int = 6) -> Iterator[str]:
    """Yield the dotted names of all fields below a message."""
    for field in message.fields:
        yield f"{path}{field.name}"
        if field.message_type and depth:
            yield from fields_of(field.message_type, f"{path}{field.name}.", depth - 1)


def test_no_request_has_a_field_for_an_address() -> None:
    """Whoever adds one must resolve it by settings instead: over gRPC and over HTTP."""
    methods = [method for service in all_services() for method in service.methods]
    named = {
        f"{method.full_name}: {field}"
        for method in methods
        for field in fields_of(method.input_type)
        if _ADDRESS_LIKE.search(field.rpartition(".")[2])
    }
    page = make_app(GatewaySettings()).openapi()
    properties = {
        f"{name}: {field}"
        for name, schema in page["components"]["schemas"].items()
        for field in schema.get("properties", {})
        if _ADDRESS_LIKE.search(field)
    }

    assert len(methods) > 30
    assert named == set()
    assert properties == set()


async def test_validation_dials_its_settings_only(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """No text of any request of validation is dialled; a named mission is, where settings say."""
    service = pb.DESCRIPTOR.services_by_name["ValidationService"]
    made, where = ScriptedMission(), socket_of(tmp_path, "router")
    async with (
        listener() as (connections, port),
        mission(where, made),
        validation(tmp_path, redis_server, missions={"router": where}) as (stub, running),
    ):
        calls = await call_all(running.address, service, port)
        for text in targets(port):
            request = pb.AnalyzeCanaryRequest(canary_id="a", terms=pb.CanaryTerms(**TERMS))
            request.probes.add(prompt=text, answers=[text])
            request.stable.model = request.canary.model = text
            for name in (text, "router"):
                request.mission = name
                await call(running_channel := open_channel(running.address), _ANALYZE, request)
                await running_channel.close()
        # Field 1 of CanarySide was the address; an old client's value is unknown and ignored.
        old = pb.CanarySide.FromString(b"\x0a\x09" + b"127.0.0.1")
        del stub

    assert calls == len(service.methods) * len(targets(0))
    assert connections == []
    assert made.asked.total() > 0
    assert not old.ListFields()


_ANALYZE = pb.DESCRIPTOR.services_by_name["ValidationService"].methods_by_name["AnalyzeCanary"]


@pytest.mark.slow
async def test_sidecar_dials_its_mission_only(tmp_path: Path, redis_server: RedisServer) -> None:
    """Texts to judge, redact or forward are texts, whatever they look like."""
    service = safety_pb2.DESCRIPTOR.services_by_name["SafetyService"]
    async with listener() as (connections, port), scene(tmp_path, redis_server) as fleet:
        await call_all(fleet.sidecar.address, service, port)
        for method in ("router.v1.RouterService", "mission.v1.MissionService"):
            found = next(one for one in all_services() if one.full_name == f"bemfleet.{method}")
            await call_all(fleet.sidecar.address, found, port)

    assert connections == []


async def test_orchestrator_dials_its_settings_only(tmp_path: Path) -> None:
    """A canary's specification names images and adapters; none of it is an address to call."""
    (tmp_path / "missions").mkdir()
    spec = {"metadata": {"name": "router"}, "spec": {"model": "qa"}}
    write_json_atomic(tmp_path / "missions/router.json", spec)
    service = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"]
    start = service.methods_by_name["StartCanary"]
    async with listener() as (connections, port):
        with orchestrator(
            tmp_path,
            missions_dir=str(tmp_path / "missions"),
            mission_address=f"unix:{tmp_path}/{{service}}.sock",
            validation_address=f"unix:{tmp_path}/v.sock",
        ) as made:
            async with open_channel(made.address) as channel:
                await asyncio.wait_for(channel.channel_ready(), 60)
                request = fleet_pb2.StartCanaryRequest(name="router")
                request.canary.update({"model": targets(port)[0]})
                await call(channel, start, request)
            await call_all(made.address, service, port)
            await asyncio.sleep(1)  # polls of the canary's adapter would have been made by now

    assert connections == []

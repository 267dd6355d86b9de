"""Access control of every gRPC server: each RPC without a key and with a key of each role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.checkout import ROOT
from bem_fleet.cli import main
from bem_fleet.services.memory import build as memory
from bem_fleet.services.memory import servicer as memory_servicer
from bem_fleet.services.memory.settings import MemorySettings
from bem_fleet.services.online import build as online
from bem_fleet.services.online import servicer as online_servicer
from bem_fleet.services.online.settings import OnlineSettings
from bem_fleet.services.orchestrator import build as orchestrator
from bem_fleet.services.orchestrator import servicer as orchestrator_servicer
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.safety import build as sidecar
from bem_fleet.services.safety import servicer as sidecar_servicer
from bem_fleet.services.safety.settings import SafetySettings
from bem_fleet.services.sep import build as sep
from bem_fleet.services.sep import servicer as sep_servicer
from bem_fleet.services.sep.settings import SepSettings
from bem_fleet.services.validation import build as validation
from bem_fleet.services.validation import servicer as validation_servicer
from bem_fleet.services.validation.settings import ValidationSettings
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from fleet import wire
from fleet.access.method_roles import find_generated_method, method_role
from fleet.access.principal import Role
from fleet.clients import open_channel
from fleet.errors import details_of
from fleet.server import start
from fleet.testing import RedisServer
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio

from tests.integration.routers import tiny_router
from tests.integration.test_sidecar import audit_of
from tests.support.access_keys import AccessKeys, write_access_keys
from tools.access_table import rpc_methods

pytestmark = pytest.mark.slow
USER = {"name": "web", "tenant": "acme"}
CALLERS = {None: Role.OPEN, "web": Role.USER, "service": Role.SERVICE, "operator": Role.OPERATOR}
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class Servers:
    """Every gRPC server of the fleet on TCP, with one keys file.

    Attributes:
        keys: The keys.
        channels: Channel to the server of each service, by the service's full name.
    """

    def __init__(self, keys: AccessKeys) -> None:
        self.keys = keys
        self.channels: dict[str, aio.Channel] = {}

    async def code(self, method: MethodDescriptor, metadata: Any) -> grpc.StatusCode:
        """Return the status with which an empty request ends."""
        service = method.containing_service.full_name
        path = f"/{service}/{method.name}"
        kind = "stream" if method.client_streaming else "unary"
        kind += "_stream" if method.server_streaming else "_unary"
        call: Any = getattr(self.channels[service], kind)(path)
        given = iter([b""]) if method.client_streaming else b""
        running = call(given, metadata=metadata, timeout=10)
        try:
            if method.server_streaming:
                await anext(aiter(running), None)
                running.cancel()
            else:
                await running
        except aio.AioRpcError as err:
            code: grpc.StatusCode = err.code()
            return code
        return grpc.StatusCode.OK

    async def wait_for_mission(self) -> None:
        """Wait until the sidecar knows the mission's methods: it needs no scorer for that."""
        method = find_generated_method("/bemfleet.mission.v1.MissionService/ListAdapters")
        assert method
        async with asyncio.timeout(60):
            web = self.keys.metadata("web")
            while await self.code(method, web) is not grpc.StatusCode.OK:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)


@pytest.fixture
async def servers(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Servers]:
    """A tiny router behind its sidecar, validation, orchestrator, memory and online."""
    keys = write_access_keys(tmp_path / "keys", USER)
    common: dict[str, Any] = {
        "address": "127.0.0.1:0",
        "redis_url": redis_server.url,
        "keys_file": keys.file,
        "service_key_file": keys.path("service"),
        "drain_s": 0,
    }
    made = Servers(keys)
    (tmp_path / "missions").mkdir()
    async with AsyncExitStack() as stack:
        router, _ = await stack.enter_async_context(tiny_router(tmp_path))
        # No scorer: a call that is admitted ends UNAVAILABLE, which is no refusal.
        guard = SafetySettings(
            upstream=router.address, scorer_socket=tmp_path / "none.sock", **common
        )
        plan = OrchestratorSettings(missions_dir=tmp_path / "missions", **common)
        tiny = {"backbone": "tiny", "adapter_folder": tmp_path, "rank": 4, **common}
        running: list[Any] = [
            await start(guard, sidecar.build, sidecar_servicer.STATUS),
            await start(ValidationSettings(**common), validation.build, validation_servicer.STATUS),
            await start(plan, orchestrator.build, orchestrator_servicer.STATUS),
            await start(MemorySettings(**tiny), memory.build, memory_servicer.STATUS),
            await start(SepSettings(**tiny, front=tmp_path), sep.build, sep_servicer.STATUS),
            await start(OnlineSettings(**tiny), online.build, online_servicer.STATUS),
        ]
        for one in running:
            stack.push_async_callback(one.stop)
        channels = [await stack.enter_async_context(open_channel(one.address)) for one in running]
        behind = ("router", "mission", "safety", "common")
        own = {"validation": 1, "memory": 3, "sep": 4, "online": 5}
        names = {method.containing_service.full_name for method in rpc_methods(ROOT)}
        for name in names:
            package = name.split(".")[1] if name.startswith("bemfleet.") else "router"
            index = 0 if package in behind else own.get(package, 2)
            made.channels[name] = channels[index]
        await made.wait_for_mission()
        yield made


async def test_every_rpc_admits_its_role_and_no_smaller_one(servers: Servers) -> None:
    """No key where one is needed is UNAUTHENTICATED, a small role PERMISSION_DENIED.

    A wrong key is refused everywhere but by health, also where no key would do.
    """
    wrong = []
    unknown = ((wire.AUTHORIZATION, "Bearer bem_unknown"),)
    for method in rpc_methods(ROOT):
        needed = method_role(method)
        if needed is not Role.OPEN and await servers.code(method, unknown) is not _REFUSALS[0]:
            wrong.append(f"{method.full_name} by an unknown key")
        for name, role in CALLERS.items():
            metadata = servers.keys.metadata(name) if name else ()
            code = await servers.code(method, metadata)
            expected = _REFUSALS[0] if name is None else _REFUSALS[1]
            right = code not in _REFUSALS if role >= needed else code is expected
            if not right:
                wrong.append(f"{method.full_name} by {name}: {code.name}")

    assert wrong == []


async def test_operators_action_is_recorded_before_it_happens(
    servers: Servers, redis_server: RedisServer
) -> None:
    """The record names the key; without Redis the action does not happen."""
    stub: Any = mission_pb2_grpc.MissionServiceStub(
        servers.channels["bemfleet.mission.v1.MissionService"]
    )
    request = mission_pb2.UnloadAdapterRequest(name="beta")
    with pytest.raises(aio.AioRpcError) as denied:
        await stub.UnloadAdapter(request, metadata=servers.keys.metadata("web"))
    await stub.UnloadAdapter(request, metadata=servers.keys.metadata("operator"))
    listed = await stub.ListAdapters(
        mission_pb2.ListAdaptersRequest(), metadata=servers.keys.metadata("web")
    )
    records = await audit_of(redis_server)
    actions = [(r["principal"], r["method"]) for r in records if r["action"] == "operator"]

    assert details_of(denied.value).reason == wire.ROLE_REQUIRED
    assert details_of(denied.value).metadata == {"role": "user", "required": "operator"}
    assert [one.name for one in listed.adapters] == ["tiny", "alpha"]
    assert actions == [("operator", "/bemfleet.mission.v1.MissionService/UnloadAdapter")]
    of_method = [r["action"] for r in records if r["method"].endswith("/UnloadAdapter")]
    assert of_method == ["operator", "allow"]
    assert {r["principal"] for r in records} == {"operator", "web"}
    assert main(["audit", "verify", "--redis-url", redis_server.url]) == 0
    redis_server.kill()
    with pytest.raises(aio.AioRpcError) as unrecorded:
        await stub.UnloadAdapter(
            mission_pb2.UnloadAdapterRequest(name="alpha"),
            metadata=servers.keys.metadata("operator"),
        )
    redis_server.start()
    assert unrecorded.value.code() is grpc.StatusCode.UNAVAILABLE
    kept = await stub.ListAdapters(
        mission_pb2.ListAdaptersRequest(), metadata=servers.keys.metadata("web")
    )
    assert [one.name for one in kept.adapters] == ["tiny", "alpha"]

"""Mission clients: channel, contract, descriptors and canary routing of each mission."""

from __future__ import annotations  # the typed stub exists in the stubs only

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import grpc
from bem_fleet.services.gateway.canary_observations import CanaryObserver
from bem_fleet.services.gateway.canary_routing import CanaryRouter
from bem_fleet.services.gateway.idle_missions import IdleMission
from bem_fleet.services.gateway.method_fields import MethodFields
from bem_fleet.services.gateway.replicas import ReplicaSet
from bem_fleet.services.gateway.route_table import RouteTable
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.safety.v1 import safety_pb2_grpc
from fleet.certificates import CertificateFolder
from fleet.clients import open_channel, outgoing_metadata, wait_ready
from fleet.errors import NotFoundError
from fleet.reflection import ReflectionClient
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_CONTRACT = mission_pb2.DESCRIPTOR.services_by_name["MissionService"].full_name
_DESCRIBE_TIMEOUT_S = 5.0
_HEALTH_TIMEOUT_S = 1.0


class MissionClient:
    """Everything that the gateway needs of one mission.

    Attributes:
        name: Name of the mission.
        contract: Stub of its MissionService.
        safety: Stub of its sidecar's SafetyService.
        router: Canary routing of its calls.
    """

    def __init__(
        self,
        name: str,
        channel: aio.Channel,
        table: RouteTable,
        observer: CanaryObserver,
        *,
        replicas: ReplicaSet | None = None,
        idle: IdleMission | None = None,
    ) -> None:
        self.name = name
        self.contract: mission_pb2_grpc.MissionServiceAsyncStub = (
            mission_pb2_grpc.MissionServiceStub(channel)
        )
        self.safety: safety_pb2_grpc.SafetyServiceAsyncStub = safety_pb2_grpc.SafetyServiceStub(
            channel
        )
        self._channel, self._replicas = channel, replicas
        self._reflection = ReflectionClient(channel, f"mission {name}")
        self.router = CanaryRouter(
            name, channel, self._reflection, table, observer, replicas=replicas, idle=idle
        )
        self._service = ""

    async def describe(self) -> mission_pb2.DescribeResponse:
        """Return the mission's description.

        Raises:
            grpc.RpcError: The mission cannot be reached, or still loads its model.
        """
        described = await self.contract.Describe(
            mission_pb2.DescribeRequest(),
            timeout=_DESCRIBE_TIMEOUT_S,
            metadata=outgoing_metadata(),
        )
        self._service = described.service
        return described

    async def method(self, name: str) -> MethodFields:
        """Return a method of the mission's own service.

        Raises:
            NotFoundError: The service has no such method; the error names its methods.
            UnavailableError: The mission's descriptors cannot be read, or it has no pods.
            grpc.RpcError: The mission cannot be reached, or still loads its model.
        """
        async with self.router.hold():
            return await self._method(name)

    async def _method(self, name: str) -> MethodFields:
        if not self._service:
            await self.describe()
        fields = await self.router.fields_of(f"/{self._service}/{name}")
        if fields is None:
            described = await self.describe()  # a restarted mission may have another service
            fields = await self.router.fields_of(f"/{self._service}/{name}")
            if fields is None:
                methods = [method.name.rpartition("/")[2] for method in described.methods]
                raise NotFoundError(
                    f"method: mission {self.name!r} has no method {name!r}; methods: "
                    f"{', '.join(sorted(methods))}; call one of them"
                )
        return fields

    def exchange(
        self,
        path: str,
        requests: AsyncIterator[bytes],
        *,
        timeout_s: float,
        metadata: tuple[tuple[str, str], ...],
    ) -> Any:
        """Open a call with a stream of serialised requests, which no canary splits.

        Args:
            path: Call path, ``/package.Service/Method``.
            requests: Serialised requests.
            timeout_s: Deadline of the call, in seconds.
            metadata: Metadata of the call.

        Returns:
            The call: iterating it yields serialised responses, and ``cancel`` ends it.
        """
        call: Any = self._channel.stream_stream(path)
        return call(requests, timeout=timeout_s, metadata=metadata)

    async def wait_ready(self, service: str, timeout_s: float) -> None:
        """Wait until a service of the mission reports SERVING.

        Raises:
            UnavailableError: The service is not SERVING after ``timeout_s`` seconds.
        """
        await wait_ready(self._channel, service, timeout_s)

    async def is_serving(self) -> bool:
        """Return whether the mission reports SERVING now."""
        check = health_pb2_grpc.HealthStub(self._channel).Check(
            health_pb2.HealthCheckRequest(service=_CONTRACT), timeout=_HEALTH_TIMEOUT_S
        )
        try:
            status = (await check).status
        except grpc.RpcError:
            return False
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    async def watch_connection(self) -> None:
        """Follow the mission's replicas, and read its descriptors again after a lost connection.

        Runs until cancelled.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reflection.watch_connection())
            if self._replicas:
                group.create_task(self._replicas.watch())

    async def close(self) -> None:
        """Cancel mirrored calls and close the channel."""
        await self.router.close()
        if self._replicas:
            await self._replicas.close()
        await self._channel.close()


def connect_missions(
    targets: dict[str, str],
    max_message_bytes: int,
    table: RouteTable,
    observer: CanaryObserver,
    *,
    certificates: CertificateFolder | None = None,
    replicas: Mapping[str, str] | None = None,
    hold: Callable[[str, aio.Channel, str], IdleMission | None] = lambda *_: None,
) -> dict[str, MissionClient]:
    """Return the clients of all missions by name; connections are made on first use.

    Args:
        targets: gRPC target of each mission by name.
        max_message_bytes: Largest message, in bytes.
        table: Canary routes.
        observer: Takes the outcomes of canaries.
        certificates: Certificate of the gateway for TLS; None for plain connections.
        replicas: Headless Service, ``host:port``, of each mission whose pods are called.
        hold: Returns what holds the calls of a mission that may have no pods, from its name, its
            channel and its health service; None for a mission that always has some.
    """
    connect = partial(open_channel, certificates=certificates, max_message_bytes=max_message_bytes)

    def client(name: str, target: str) -> MissionClient:
        channel, pods = connect(target), None
        if replicas and name in replicas:
            # A pod's certificate has the names of its Service, and not its address.
            to_pod = partial(connect, server_name=target.rpartition(":")[0])
            pods = ReplicaSet(name, channel, replicas[name], to_pod)
        idle = hold(name, channel, _CONTRACT)
        return MissionClient(name, channel, table, observer, replicas=pods, idle=idle)

    return {name: client(name, target) for name, target in targets.items()}


async def mission_statuses(missions: dict[str, MissionClient]) -> dict[str, str]:
    """Return ``serving`` or ``unavailable`` for each mission."""
    serving = await asyncio.gather(*(mission.is_serving() for mission in missions.values()))
    return {
        name: "serving" if one else "unavailable"
        for name, one in zip(missions, serving, strict=True)
    }

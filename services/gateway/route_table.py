"""Route table: the canary routes that the orchestrator streams, and channels to canaries."""

import asyncio
from collections.abc import Callable, Collection

import grpc
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet import logs
from fleet.access.own_key import OwnKey
from fleet.certificates import CertificateFolder
from fleet.clients import open_channel
from fleet.closing_channels import ClosingChannels
from grpc import aio
from prometheus_client import Counter, Gauge

_LOG = logs.get("gateway.route_table")
_RECONNECT_DELAY_S = 1.0
TABLES = Counter("bem_gateway_route_tables_total", "Route tables applied.")
WEIGHT = Gauge("bem_gateway_canary_weight_percent", "Share of the canary.", ["mission"])


class RouteTable:
    """Routes by mission; the last ones stay valid while the orchestrator is unavailable.

    Args:
        address: gRPC target of the orchestrator; None: there are no canaries.
        max_message_bytes: Largest message on channels to canaries, in bytes.
        on_canaries: Called with the ids of the active canaries whenever the routes change.
        channel_grace_s: Longest wait for calls in flight on a channel that no route needs, in
            seconds.
        own_key: Key of the gateway; None for none.
        certificates: Certificate of the gateway for TLS; None for plain connections.
    """

    def __init__(
        self,
        address: str | None,
        max_message_bytes: int,
        on_canaries: Callable[[Collection[str]], None],
        channel_grace_s: float = 300.0,
        *,
        own_key: OwnKey | None = None,
        certificates: CertificateFolder | None = None,
    ) -> None:
        self._address, self._max_message_bytes = address, max_message_bytes
        self._on_canaries, self._channel_grace_s = on_canaries, channel_grace_s
        self._own_key, self._certificates = own_key or OwnKey(None), certificates
        self._routes: dict[str, pb.Route] = {}
        self._channels: dict[str, aio.Channel] = {}
        self._closing = ClosingChannels()

    @property
    def channels(self) -> Collection[str]:
        """Addresses of the canaries to which a channel is open."""
        return self._channels.keys()

    def has_route(self, mission: str) -> bool:
        """Return whether any calls of a mission are split or renamed."""
        return mission in self._routes

    def route(self, mission: str, model: str | None) -> pb.Route | None:
        """Return the route of a call; None if the call is neither split nor renamed.

        A canary in another Deployment (with an address) is tried with every model and every
        method; a canary of an adapter only with calls that name the route's model.

        Args:
            mission: Name of the mission.
            model: Model that the call names, possibly empty; None: its method names no model.
        """
        route = self._routes.get(mission)
        if route is None:
            return None
        if model is None or (route.model and route.model != model):
            return _without_models(route) if route.canary.address else None
        if route.HasField("canary") or route.stable.model:
            return route
        return None

    def channel(self, address: str) -> aio.Channel:
        """Return the channel to a canary."""
        if address not in self._channels:
            self._channels[address] = open_channel(
                address,
                certificates=self._certificates,
                max_message_bytes=self._max_message_bytes,
            )
        return self._channels[address]

    async def watch(self) -> None:
        """Apply the orchestrator's route tables until cancelled."""
        if self._address is None:
            return
        async with open_channel(self._address, certificates=self._certificates) as channel:
            fleet = rpc.FleetServiceStub(channel)
            while True:
                try:
                    async for table in fleet.WatchRoutes(
                        pb.WatchRoutesRequest(),
                        wait_for_ready=True,
                        metadata=self._own_key.metadata(),
                    ):
                        self.apply(table)
                except grpc.RpcError as err:
                    _LOG.info("route stream interrupted", reason=str(err)[:200])
                await asyncio.sleep(_RECONNECT_DELAY_S)

    def apply(self, table: pb.WatchRoutesResponse) -> None:
        """Replace the routes; state and channels of canaries that ended are released."""
        routes = {route.mission: route for route in table.routes}
        for mission in self._routes.keys() - routes.keys():
            WEIGHT.labels(mission).set(0)
        for route in table.routes:
            WEIGHT.labels(route.mission).set(route.weight)
        self._routes = routes
        TABLES.inc()
        self._on_canaries({route.canary_id for route in table.routes if route.HasField("canary")})
        needed = {
            target.address for route in table.routes for target in (route.stable, route.canary)
        }
        for address in self._channels.keys() - needed:
            self._closing.add(self._channels.pop(address), self._channel_grace_s)

    async def close(self) -> None:
        """Close the channels to canaries."""
        await self._closing.end()
        for channel in self._channels.values():
            await channel.close()


def _without_models(route: pb.Route) -> pb.Route:
    """Return the route for a call whose model keeps its own name on both tracks."""
    copy = pb.Route()
    copy.CopyFrom(route)
    copy.model = copy.stable.model = copy.canary.model = ""
    return copy

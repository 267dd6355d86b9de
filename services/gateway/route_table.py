"""The routes that the orchestrator sends, and the channels to where they lead."""

import asyncio

import grpc
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet import logs
from fleet.clients import open_channel
from grpc import aio
from prometheus_client import Counter, Gauge

_LOG = logs.get("gateway.routing")
_PAUSE_S = 1.0
TABLES = Counter("bem_gateway_route_tables_total", "Route tables taken over.")
WEIGHT = Gauge("bem_gateway_canary_weight_percent", "Share of the canary.", ["mission"])


class RouteTable:
    """Routes by mission; the last ones hold while the orchestrator is away.

    Args:
        address: The orchestrator's; None: there are no canaries.
        max_message_bytes: For the channels to canaries.
    """

    def __init__(self, address: str | None, max_message_bytes: int) -> None:
        self._address = address
        self._max = max_message_bytes
        self._routes: dict[str, pb.Route] = {}
        self._channels: dict[str, aio.Channel] = {}

    def route(self, mission: str, model: str) -> pb.Route | None:
        """Return the route that holds for a request; None where nothing is split or renamed."""
        route = self._routes.get(mission)
        if route is None:
            return None
        if route.model and route.model != model:
            # Another Deployment is tried with all models; only the mission's own is renamed.
            return _unnamed(route) if route.canary.address else None
        if route.HasField("canary") or route.stable.model:
            return route
        return None

    def channel(self, address: str) -> aio.Channel:
        """Return the channel to a canary."""
        if address not in self._channels:
            self._channels[address] = open_channel(address, max_message_bytes=self._max)
        return self._channels[address]

    async def follow(self) -> None:
        """Take over the routes for ever."""
        if self._address is None:
            return
        async with open_channel(self._address) as channel:
            fleet = rpc.FleetServiceStub(channel)
            while True:
                try:
                    async for table in fleet.WatchRoutes(
                        pb.WatchRoutesRequest(), wait_for_ready=True
                    ):
                        self.take(table)
                except grpc.RpcError as err:
                    _LOG.info("routes interrupted", reason=str(err)[:200])
                await asyncio.sleep(_PAUSE_S)

    def take(self, table: pb.WatchRoutesResponse) -> None:
        """Replace the routes."""
        self._routes = {route.mission: route for route in table.routes}
        TABLES.inc()
        for route in table.routes:
            WEIGHT.labels(route.mission).set(route.weight)

    async def close(self) -> None:
        """Close the channels to canaries."""
        for channel in self._channels.values():
            await channel.close()


def _unnamed(route: pb.Route) -> pb.Route:
    """Return the route for a model that goes by its own name."""
    made = pb.Route()
    made.CopyFrom(route)
    made.model = made.stable.model = made.canary.model = ""
    return made

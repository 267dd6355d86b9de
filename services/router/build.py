"""Wiring of the router service."""

import asyncio
from collections.abc import Callable

from bem_fleet.services.router import open_inference, servicer
from bem_fleet.services.router.decision_log import STREAM_ENTRIES, DecisionLog
from bem_fleet.services.router.mission_contract import RouterContract
from bem_fleet.services.router.model_host import LazyModelHost, ModelHost
from bem_fleet.services.router.model_loading import load
from bem_fleet.services.router.planned_calls import open_planned_calls
from bem_fleet.services.router.settings import RouterSettings
from bemfleet.mission.v1 import mission_pb2_grpc
from bemfleet.router.v1 import router_pb2, router_pb2_grpc
from fleet import mission as contract
from fleet.server import App
from fleet.streams import StreamWriter
from fleet.wire import DECISIONS_STREAM
from inference import open_inference_pb2_grpc

Load = Callable[[RouterSettings], ModelHost]


async def build(settings: RouterSettings, app: App, load_host: Load = load) -> None:
    """Add the servicers and load the model in the background; ready when it is loaded."""
    host = LazyModelHost()
    own = servicer.RouterServicer(host)
    decisions = StreamWriter(settings.redis_url, DECISIONS_STREAM, STREAM_ENTRIES)
    log = DecisionLog(decisions)
    app.on_stop(decisions.close)
    app.spawn(log.run())
    router_pb2_grpc.add_RouterServiceServicer_to_server(own, app.server)
    service = router_pb2.DESCRIPTOR.services_by_name["RouterService"]
    mission_pb2_grpc.add_MissionServiceServicer_to_server(
        contract.MissionServicer(
            "router", service, lambda: RouterContract(host.get(), own.planned)
        ),
        app.server,
    )
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        open_inference.OpenInferenceServicer(host), app.server
    )
    names = (servicer.SERVICE, contract.SERVICE, open_inference.SERVICE)
    for name in names:
        await app.register_service(name)

    async def become_ready() -> None:
        loaded = await asyncio.to_thread(load_host, settings)
        own.planned = await asyncio.to_thread(open_planned_calls, loaded, settings, log)
        host.loaded = loaded
        app.on_stop(loaded.close)
        for name in names:
            await app.set_serving(name, serving=True)
        await loaded.run_until_closed()

    app.spawn(become_ready())

"""Puts the service together."""

import asyncio
from collections.abc import Callable

from bem_fleet.services.router import open_inference, servicer
from bem_fleet.services.router.mission_contract import RouterContract
from bem_fleet.services.router.model_host import Mission, load
from bem_fleet.services.router.settings import RouterSettings
from bemfleet.mission.v1 import mission_pb2_grpc
from bemfleet.router.v1 import router_pb2, router_pb2_grpc
from fleet import mission as contract
from fleet.server import App
from inference import open_inference_pb2_grpc

Load = Callable[[RouterSettings], Mission]


async def build(settings: RouterSettings, app: App, load_mission: Load = load) -> None:
    """Add the servicers at once and load the model beside them; ready when it is loaded."""
    holder = servicer.LazyModelHost()
    router_pb2_grpc.add_RouterServiceServicer_to_server(servicer.RouterServicer(holder), app.server)
    service = router_pb2.DESCRIPTOR.services_by_name["RouterService"]
    mission_pb2_grpc.add_MissionServiceServicer_to_server(
        contract.MissionServicer("router", service, lambda: RouterContract(holder.get())),
        app.server,
    )
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        open_inference.OpenInferenceServicer(holder), app.server
    )
    names = (servicer.SERVICE, contract.SERVICE, open_inference.SERVICE)
    for name in names:
        await app.offer(name)

    async def become_ready() -> None:
        mission = await asyncio.to_thread(load_mission, settings)
        holder.loaded = mission
        app.on_stop(mission.close)
        for name in names:
            await app.set_serving(name, serving=True)
        await mission.watch()

    app.spawn(become_ready())

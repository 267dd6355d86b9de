"""Assembly of a mission: the contract beside its own service, and a model that loads meanwhile."""

import asyncio
from collections.abc import Callable

from bem.backbone import Backbone
from bemfleet.mission.v1 import mission_pb2_grpc
from fleet import mission as contract
from fleet.server import App
from google.protobuf.descriptor import ServiceDescriptor

from bem_fleet.serving.engine_host import EngineHost, HostHolder, load_host
from bem_fleet.serving.settings import EngineSettings
from bem_fleet.serving.vllm_metrics import ENGINE_METRICS


async def build_mission(
    app: App,
    settings: EngineSettings,
    *,
    name: str,
    service: ServiceDescriptor,
    holder: HostHolder,
    on_loaded: Callable[[EngineHost], None] = lambda host: None,  # noqa: ARG005
    prepare: Callable[[Backbone], Backbone] = lambda loaded: loaded,
) -> None:
    """Serve the mission contract, load the model in the background and report readiness.

    Args:
        app: The server; the mission's own servicer is added by the caller.
        settings: Settings of model and engine.
        name: Name of the mission.
        service: Descriptor of the mission's own service.
        holder: Receives the host once the model is loaded.
        on_loaded: Called with the host before the mission reports readiness.
        prepare: Changes the verified base model before the engine takes it.
    """
    mission_pb2_grpc.add_MissionServiceServicer_to_server(
        contract.MissionServicer(name, service, holder.get), app.server
    )
    names = (service.full_name, contract.SERVICE)
    for each in names:
        await app.register_service(each)

    async def become_ready() -> None:
        host = await asyncio.to_thread(load_host, settings, prepare)
        holder.host = host
        ENGINE_METRICS.attach(host.engine, host.backbone.name)
        on_loaded(host)
        app.on_stop(host.close)
        for each in names:
            await app.set_serving(each, serving=True)
        await host.wait()

    app.spawn(become_ready())

"""Puts the orchestrator together."""

from pathlib import Path

from bem_fleet.services.orchestrator.analyst import Analyst
from bem_fleet.services.orchestrator.kube.api import Api, Object, connect
from bem_fleet.services.orchestrator.kube.election import is_leader, lead
from bem_fleet.services.orchestrator.reconciler import Reconciler
from bem_fleet.services.orchestrator.servicer import SERVICE, FleetServicer
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.view import View
from bem_fleet.services.orchestrator.workloads import deployment_path
from bemfleet.fleet.v1 import fleet_pb2_grpc
from fleet.server import App


async def build(settings: OrchestratorSettings, app: App) -> None:
    """Add the servicer; it is ready once the caches are filled. One replica reconciles."""
    if settings.missions is not None:
        await _build_local(settings, app, settings.missions)
        return
    api = await connect()
    owner = await _own_deployment(api, settings)
    view = View(api, settings)
    analyst = Analyst(settings, view, view.changed.set)
    reconciler = Reconciler(api, view, analyst, settings)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(
        FleetServicer(api, view, settings.namespace, analyst.address, is_leader), app.server
    )
    await app.register_service(SERVICE)
    app.on_stop(api.close)
    app.on_stop(analyst.close)
    for cache in view.caches:
        app.spawn(cache.run())
    app.spawn(_announce(app, view))
    app.spawn(analyst.run())
    app.spawn(
        lead(
            api,
            namespace=settings.namespace,
            identity=settings.identity,
            duration_s=settings.lease_s,
            work=reconciler.run,
            owner=owner,
        )
    )


async def _build_local(settings: OrchestratorSettings, app: App, folder: Path) -> None:
    """Add the servicer of a machine without a cluster."""
    # No image has what this needs.
    from bem_fleet.services.orchestrator.local.canaries import LocalCanaries  # noqa: PLC0415
    from bem_fleet.services.orchestrator.local.files import MissionFiles  # noqa: PLC0415

    files = MissionFiles(folder, settings.mission_schema, settings.namespace)
    analyst = Analyst(settings, files, files.changed.set)
    canaries = LocalCanaries(files, analyst, settings)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(
        FleetServicer(files, files, settings.namespace, analyst.address, lambda: True), app.server
    )
    await app.register_service(SERVICE)
    await app.set_serving(SERVICE, serving=True)
    app.on_stop(analyst.close)
    for work in (canaries.run(), canaries.watch_health(), analyst.run()):
        app.spawn(work)


async def _own_deployment(api: Api, settings: OrchestratorSettings) -> Object | None:
    """Return the owner reference of the orchestrator's own Deployment, if it has one."""
    if not settings.deployment:
        return None
    found = await api.get(deployment_path(settings.namespace, settings.deployment))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": settings.deployment,
        "uid": found["metadata"]["uid"],
    }


async def _announce(app: App, view: View) -> None:
    await view.synced()
    await app.set_serving(SERVICE, serving=True)

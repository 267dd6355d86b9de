"""Wiring of the orchestrator: in a cluster by informers and leader election, else by files."""

from pathlib import Path

from bem_fleet.services.orchestrator.adapter_rejections import AdapterRejections
from bem_fleet.services.orchestrator.canary_analysis import CanaryAnalysisRunner
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.edge_probes import EdgeProbes
from bem_fleet.services.orchestrator.kube.api import KubeApi, Object, connect
from bem_fleet.services.orchestrator.kube.election import Leadership, run_as_leader
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.local.mission_schema import MissionSchema
from bem_fleet.services.orchestrator.local.reconciler import LocalReconciler
from bem_fleet.services.orchestrator.reconciler import Reconciler
from bem_fleet.services.orchestrator.secret_restarts import SecretRestarts
from bem_fleet.services.orchestrator.servicer import SERVICE, FleetServicer
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.workloads import deployment_path
from bemfleet.fleet.v1 import fleet_pb2_grpc
from fleet.server import App


async def build(settings: OrchestratorSettings, app: App) -> None:
    """Add FleetService and start the background tasks of a cluster or of one machine."""
    if settings.missions_dir is None:
        await _build_in_cluster(settings, app)
    else:
        await _build_on_one_machine(settings, app, settings.missions_dir)


async def _build_in_cluster(settings: OrchestratorSettings, app: App) -> None:
    """Every replica serves, once its informers are synced; only the leader reconciles."""
    api = await connect()
    owner = await _own_deployment(api, settings)
    view = ClusterView(api, settings)
    analysis = CanaryAnalysisRunner(settings, view, view.changed.set)
    reconciler = Reconciler(api, view, analysis, settings)
    leadership = Leadership()
    probes = EdgeProbes(view, analysis.mission_stub, analysis.metadata)
    servicer = FleetServicer(
        view, settings.namespace, analysis.address, leadership.is_leader, lambda: probes.problems
    )
    await _add_servicer(app, servicer)
    app.on_stop(api.close)
    app.on_stop(analysis.close)
    restarts = SecretRestarts(api, settings)
    for informer in (*view.informers, *restarts.informers):
        app.spawn(informer.run())
    app.spawn(_serve_when_synced(app, view))
    app.spawn(analysis.run())
    rejections = AdapterRejections(api, view, analysis.mission_stub, analysis.metadata)
    app.spawn(rejections.run(settings.adapters_interval_s, leadership.is_leader))
    app.spawn(restarts.run(leadership.is_leader))
    app.spawn(probes.run(settings.probe_interval_s))
    app.spawn(
        run_as_leader(
            api,
            leadership,
            namespace=settings.namespace,
            identity=settings.identity,
            duration_s=settings.lease_duration_s,
            work=reconciler.run,
            owner=owner,
        )
    )


async def _build_on_one_machine(settings: OrchestratorSettings, app: App, folder: Path) -> None:
    """One process with missions in files; it always leads."""
    files = MissionFiles(folder, MissionSchema(settings.mission_crd), settings.namespace)
    analysis = CanaryAnalysisRunner(settings, files, files.changed.set)
    reconciler = LocalReconciler(files, analysis, settings)
    probes = EdgeProbes(files, analysis.mission_stub, analysis.metadata)
    servicer = FleetServicer(
        files, settings.namespace, analysis.address, lambda: True, lambda: probes.problems
    )
    await _add_servicer(app, servicer)
    await app.set_serving(SERVICE, serving=True)
    app.on_stop(analysis.close)
    for task in (
        reconciler.run(),
        reconciler.watch_health(),
        analysis.run(),
        probes.run(settings.probe_interval_s),
    ):
        app.spawn(task)


async def _add_servicer(app: App, servicer: FleetServicer) -> None:
    """Serve FleetService; its endless streams end first when the server drains."""
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(servicer, app.server)
    await app.register_service(SERVICE)
    app.on_drain(servicer.end_watches)


async def _own_deployment(api: KubeApi, settings: OrchestratorSettings) -> Object | None:
    """Return the owner reference of the orchestrator's own Deployment; None if it has none."""
    if not settings.deployment:
        return None
    deployment = await api.get(deployment_path(settings.namespace, settings.deployment))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": settings.deployment,
        "uid": deployment["metadata"]["uid"],
    }


async def _serve_when_synced(app: App, view: ClusterView) -> None:
    await view.synced()
    await app.set_serving(SERVICE, serving=True)

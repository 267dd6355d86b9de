"""Composition of the safety sidecar: wires scorers, policy, proxy and its own services."""

from bem_fleet.services.safety import servicer
from bem_fleet.services.safety.descriptors import Catalog
from bem_fleet.services.safety.evaluator import PolicyEvaluator, Scorer
from bem_fleet.services.safety.metrics_page import SidecarMetricsServer
from bem_fleet.services.safety.policy_file import PolicyFile
from bem_fleet.services.safety.proxy import Proxy
from bem_fleet.services.safety.readiness import ReadinessMonitor
from bem_fleet.services.safety.request_guard import RequestGuard
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore
from bem_fleet.services.safety.scorer_client import ScorerClient
from bem_fleet.services.safety.scorer_process import ScorerProcess
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.safety.v1 import safety_pb2_grpc
from fleet.audit_chain import ChainWriter, read_keys
from fleet.clients import open_channel
from fleet.server import App
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc


async def build(settings: SafetySettings, app: App) -> None:
    """Serve the sidecar's own services and forward all other calls to the mission."""
    app.serves_standard_services = False
    channel = open_channel(settings.upstream, max_message_bytes=settings.max_message_bytes)
    keys = read_keys(settings.audit_key_file) if settings.audit_key_file else (b"",)
    audit = ChainWriter(settings.redis_url, settings.audit_stream, keys[0])
    policy = PolicyFile(settings.policy)
    evaluator = PolicyEvaluator(*make_scorers(settings), lambda: policy.current)
    strength = SafetyStrengthStore(settings)
    catalog = Catalog()
    app.roles.find = catalog.descriptor
    safety_pb2_grpc.add_SafetyServiceServicer_to_server(
        servicer.SafetyServicer(settings, evaluator, policy, strength, audit), app.server
    )
    health_pb2_grpc.add_HealthServicer_to_server(app.health, app.server)
    if settings.reflection:
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            servicer.SidecarReflection(catalog), app.server
        )
    request_guard = RequestGuard(settings, evaluator, strength)
    proxy = Proxy(
        settings, channel, catalog, evaluator=evaluator, request_guard=request_guard, audit=audit
    )
    app.server.add_generic_rpc_handlers((proxy,))
    if settings.pages_address:
        app.on_stop(SidecarMetricsServer(settings.pages_address, settings.upstream).close)
    await app.register_service(servicer.SERVICE)
    app.on_stop(audit.close)
    app.on_stop(strength.close)
    app.on_stop(channel.close)
    app.spawn(evaluator.run())
    app.spawn(policy.run())
    app.spawn(strength.run())
    app.spawn(ReadinessMonitor(app, channel, catalog, evaluator, audit).run())
    await app.set_serving(servicer.SERVICE, serving=True)


def make_scorers(settings: SafetySettings) -> tuple[Scorer, Scorer]:
    """Return the fast and the deep scorer: shared ones if a socket is set, else child processes."""
    timeouts = {"fast": settings.check_timeout_s, "deep": settings.deep_timeout_s}
    if path := settings.scorer_socket:
        fast, deep = (ScorerClient(tier, path, limit) for tier, limit in timeouts.items())
        return fast, deep
    own = [ScorerProcess(tier, settings.heads, limit) for tier, limit in timeouts.items()]
    return own[0], own[1]

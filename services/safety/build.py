"""Puts the sidecar together."""

from bem_fleet.services.safety import servicer
from bem_fleet.services.safety.descriptors import Catalog
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.metrics_page import SidecarMetricsServer
from bem_fleet.services.safety.policy_file import PolicyFile
from bem_fleet.services.safety.proxy import Proxy
from bem_fleet.services.safety.readiness import Readiness
from bem_fleet.services.safety.request_guard import RequestGuard
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.safety.v1 import safety_pb2_grpc
from fleet.audit_chain import ChainWriter
from fleet.clients import open_channel
from fleet.server import App
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc


async def build(settings: SafetySettings, app: App) -> None:
    """Serve the sidecar's own services locally and forward all others to the mission."""
    app.serves_standard_services = False
    channel = open_channel(settings.upstream, max_message_bytes=settings.max_message_bytes)
    secret = settings.audit_key_file.read_bytes().strip() if settings.audit_key_file else b""
    audit = ChainWriter(settings.redis_url, settings.audit_stream, secret)
    rules = PolicyFile(settings.policy)
    judge = PolicyEvaluator(
        settings.scorer, settings.check_timeout_s, settings.deep_timeout_s, lambda: rules.current
    )
    strength = SafetyStrengthStore(settings)
    catalog = Catalog()
    safety_pb2_grpc.add_SafetyServiceServicer_to_server(
        servicer.SafetyServicer(settings, judge, rules, strength, audit), app.server
    )
    health_pb2_grpc.add_HealthServicer_to_server(app.health, app.server)
    if settings.reflection:
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            servicer.SidecarReflection(catalog), app.server
        )
    proxy = Proxy(
        settings, channel, catalog, judge=judge, entry=RequestGuard(settings, judge, strength), audit=audit
    )
    app.server.add_generic_rpc_handlers((proxy,))
    if settings.pages_address:
        app.on_stop(SidecarMetricsServer(settings.pages_address, settings.upstream).close)
    await app.offer(servicer.SERVICE)
    app.on_stop(audit.close)
    app.on_stop(strength.close)
    app.on_stop(channel.close)
    app.spawn(judge.run())
    app.spawn(rules.run())
    app.spawn(strength.run())
    app.spawn(Readiness(app, channel, catalog, judge, audit).run())
    await app.set_serving(servicer.SERVICE, serving=True)

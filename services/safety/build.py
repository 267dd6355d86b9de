"""Puts the sidecar together."""

from bemfleet.safety.v1 import safety_pb2_grpc
from fleet.audit_chain import ChainWriter
from fleet.clients import open_channel
from fleet.server import App
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from services.safety import servicer
from services.safety.constitution_file import ConstitutionFile
from services.safety.descriptors import Catalog
from services.safety.judge import Judge
from services.safety.knob import Knob
from services.safety.metrics_page import SidecarPage
from services.safety.proxy import Proxy
from services.safety.readiness import Readiness
from services.safety.requests import Entry
from services.safety.settings import SafetySettings


async def build(settings: SafetySettings, app: App) -> None:
    """Serve the sidecar's own services locally and forward all others to the mission."""
    app.serves_standard_services = False
    channel = open_channel(settings.upstream, max_message_bytes=settings.max_message_bytes)
    secret = settings.audit_key_file.read_bytes().strip() if settings.audit_key_file else b""
    audit = ChainWriter(settings.redis_url, settings.audit_stream, secret)
    rules = ConstitutionFile(settings.constitution)
    judge = Judge(
        settings.scorer, settings.check_timeout_s, settings.deep_timeout_s, lambda: rules.current
    )
    knob = Knob(settings)
    catalog = Catalog()
    safety_pb2_grpc.add_SafetyServiceServicer_to_server(
        servicer.SafetyServicer(settings, judge, rules, knob, audit), app.server
    )
    health_pb2_grpc.add_HealthServicer_to_server(app.health, app.server)
    if settings.reflection:
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            servicer.SidecarReflection(catalog), app.server
        )
    proxy = Proxy(
        settings, channel, catalog, judge=judge, entry=Entry(settings, judge, knob), audit=audit
    )
    app.server.add_generic_rpc_handlers((proxy,))
    if settings.pages_address:
        app.on_stop(SidecarPage(settings.pages_address, settings.upstream).close)
    await app.offer(servicer.SERVICE)
    app.on_stop(audit.close)
    app.on_stop(knob.close)
    app.on_stop(channel.close)
    app.spawn(judge.run())
    app.spawn(rules.run())
    app.spawn(knob.run())
    app.spawn(Readiness(app, channel, catalog, judge, audit).run())
    await app.set_serving(servicer.SERVICE, serving=True)

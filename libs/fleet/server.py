"""gRPC server lifecycle: build, listen, become ready, serve, drain, stop.

``serve`` runs a service as a process; ``start`` runs one inside another event loop, as tests do. A
service supplies ``build``, which adds its servicers to an ``App`` and registers what runs in the
background and what is called at the end.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import uvloop
from bemfleet.common.v1 import metrics_pb2, metrics_pb2_grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from fleet import logs
from fleet.access.access import Access
from fleet.access.call_guard import CallGuard
from fleet.access.keys import KeyRing, KeysFileError
from fleet.access.method_roles import MethodRoles
from fleet.access.operator_audit import OperatorAudit
from fleet.audit_chain import read_keys
from fleet.certificates import certificates_of, server_credentials
from fleet.errors import StatusTable
from fleet.health import HealthServicer
from fleet.health_port import HealthPort
from fleet.interceptors import CallInterceptor
from fleet.listening import listen
from fleet.metrics import MetricsPage, MetricsServicer
from fleet.settings import FleetSettings, TlsMode, unknown_variables_of
from fleet.tracing import trace_export

_LOG = logs.get("fleet.server")
_HANDSHAKE_MS, _KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 10_000, 60_000, 20_000
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

S = TypeVar("S", bound=FleetSettings)
ShutdownStep = Callable[[], Awaitable[None]]
METRICS = metrics_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name


class App:
    """Server, health and background work of one service, filled by its ``build``.

    Attributes:
        server: gRPC server; ``build`` adds servicers to it.
        roles: Roles of the server's methods; a proxy sets its look-up of descriptors.
        health: Health servicer; services use ``set_serving``.
        services: Full names of the registered services, for health and reflection.
        serves_standard_services: Whether health, metrics and reflection are added to the server; a
            proxy that answers them itself turns it off.
        failed: Raises the error of background work that failed; never resolves otherwise.
    """

    def __init__(self, server: aio.Server, roles: MethodRoles | None = None) -> None:
        self.server = server
        self.roles = roles or MethodRoles()
        self.health = HealthServicer()
        self.services: list[str] = []
        self.serves_standard_services = True
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # An endless stream would keep a stopping server for its whole drain time.
        self._drains: list[ShutdownStep] = [self.health.end_watches]
        self._stops: list[ShutdownStep] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def register_service(self, service: str) -> None:
        """Register ``service`` for health (NOT_SERVING at first) and for reflection."""
        self.services.append(service)
        await self.health.set(service, _NOT_SERVING)

    async def set_serving(self, service: str, serving: bool) -> None:
        """Set the health status of ``service``."""
        await self.health.set(service, _SERVING if serving else _NOT_SERVING)

    def on_drain(self, step: ShutdownStep) -> None:
        """Call ``step`` after health has turned to NOT_SERVING, before calls in flight finish.

        A service with endless response streams ends them here; ``stop`` waits for open streams.
        """
        self._drains.append(step)

    def on_stop(self, step: ShutdownStep) -> None:
        """Call ``step`` after the last call has ended; steps run in reverse order."""
        self._stops.append(step)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background; if it raises, the process ends with an error."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (err := task.exception()) and not self.failed.done():
            self.failed.set_exception(err)

    async def drain(self) -> None:
        """Run the drain steps."""
        for step in self._drains:
            await step()

    async def finish(self) -> None:
        """Cancel background work and run the stop steps."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for step in reversed(self._stops):
            await step()
        self._stops.clear()
        if self.failed.done() and not self.failed.cancelled():
            self.failed.exception()  # retrieved, so that asyncio does not log it again
        self.failed.cancel()


class RunningServer:
    """A started service.

    Attributes:
        app: App that ``build`` filled.
        address: Address of the listener, with the real port.
        health: Health without TLS; None if it is not served.
    """

    def __init__(
        self,
        app: App,
        settings: FleetSettings,
        address: str,
        page: MetricsPage | None,
        health: HealthPort | None,
    ) -> None:
        self.app = app
        self.address = address
        self.health = health
        self._settings = settings
        self._page = page

    async def stop(self) -> None:
        """Turn NOT_SERVING, wait up to ``drain_s`` for calls in flight, release everything."""
        await self.app.health.enter_graceful_shutdown()
        await self.app.drain()
        await self.app.server.stop(self._settings.drain_s)
        await self.app.finish()
        if self.health:
            await self.health.stop()
        if self._page:
            self._page.close()


Build = Callable[[S, App], Awaitable[None]]


async def start(settings: S, build: Build[S], status: StatusTable) -> RunningServer:
    """Build a service and listen; return before it is ready, which health reports.

    Args:
        settings: Settings of the service; port 0 takes a free port.
        build: Adds servicers, registers their names, background work and shutdown steps.
        status: Status codes of the service's own errors.

    Raises:
        OSError: The address is in use or malformed, or the certificate cannot be used.
        KeysFileError: The keys file cannot be used.
    """
    roles = MethodRoles()
    audit = operator_audit(settings)
    guard = CallGuard(access_of(settings), roles, audit)
    traces = trace_export(settings)
    interceptor = CallInterceptor(
        status,
        guard,
        stalled_stream_s=settings.stalled_stream_s,
        tracer=traces.tracer if traces else None,
    )
    server = aio.server(
        interceptors=[interceptor],
        options=_limits(settings),
        maximum_concurrent_rpcs=settings.max_concurrent_calls,
    )
    app = App(server, roles)
    if traces:
        app.on_stop(traces.close)
    app.on_stop(audit.close)
    await app.health.set("", _SERVING)
    await build(settings, app)
    if app.serves_standard_services:
        _add_standard_services(app, reflect=settings.reflection)
    address = listen(server, settings.address, credentials_of(settings))
    page = MetricsPage(settings.metrics_address) if settings.metrics_address else None
    health = HealthPort(app.health, settings.health_address) if settings.health_address else None
    await server.start()
    if health:
        await health.start()
    _LOG.info("listening", address=address, services=app.services, tls=settings.tls_mode.value)
    return RunningServer(app, settings, address, page, health)


def credentials_of(settings: FleetSettings) -> grpc.ServerCredentials | None:
    """Return the credentials of a listener; None without TLS.

    Raises:
        CertificateError: The certificate cannot be used.
    """
    folder = certificates_of(settings)
    if folder is None:
        return None
    return server_credentials(folder, mutual=settings.tls_mode is TlsMode.MUTUAL)


def access_of(settings: FleetSettings) -> Access:
    """Return the access control of a listener.

    Raises:
        KeysFileError: The keys file cannot be used.
    """
    keys = KeyRing(settings.keys_file) if settings.keys_file else None
    return Access(keys, settings.address)


def operator_audit(settings: FleetSettings) -> OperatorAudit:
    """Return the record of operators' actions."""
    secrets = read_keys(settings.audit_key_file) if settings.audit_key_file else (b"",)
    return OperatorAudit(settings.redis_url, settings.audit_stream, secrets[0])


def _limits(settings: FleetSettings) -> list[tuple[str, int]]:
    """Return gRPC's options that bound what one client can hold."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", round(1000 * settings.idle_connection_s)),
        # A peer that vanished without closing its connection is noticed.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.so_reuseport", 0),
    ]


def _add_standard_services(app: App, *, reflect: bool) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(app.health, app.server)
    metrics_pb2_grpc.add_MetricsServiceServicer_to_server(MetricsServicer(), app.server)
    if reflect:
        names = [*app.services, METRICS, HEALTH, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, app.server)


async def run(settings: S, build: Build[S], status: StatusTable) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    try:
        running = await start(settings, build, status)
    except (OSError, KeysFileError) as err:
        _LOG.error("cannot start", reason=str(err))
        return 1
    gc.freeze()  # start-up objects live as long as the process; collections need not visit them
    stop = asyncio.create_task(stopping.wait())
    ends: set[asyncio.Future[Any]] = {stop, running.app.failed}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    failure = running.app.failed.exception() if running.app.failed.done() else None
    if failure:
        _LOG.error("background work failed", reason=str(failure), exc_info=failure)
    _LOG.info("draining", limit_s=settings.drain_s)
    await running.stop()
    stop.cancel()
    _LOG.info("stopped")
    return 1 if failure else 0


def report_unknown_variables(settings_type: type[FleetSettings]) -> None:
    """Log a warning for each environment variable that looks like a setting and is none."""
    for name, nearest in unknown_variables_of(os.environ, settings_type).items():
        _LOG.warning("unknown setting", variable=name, nearest=nearest, effect="ignored")


def serve(settings_type: type[S], build: Build[S], status: StatusTable) -> None:
    """Run a service as this process: settings from the environment, logs, signals, exit status."""
    settings = settings_type()
    logs.setup(settings.log_level)
    report_unknown_variables(settings_type)
    sys.exit(uvloop.run(run(settings, build, status)))

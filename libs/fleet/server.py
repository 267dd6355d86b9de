"""The life of a service: listen, become ready, serve, drain, end."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from bemfleet.common.v1 import metrics_pb2, metrics_pb2_grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from fleet import logs
from fleet.errors import StatusTable
from fleet.interceptors import CallInterceptor
from fleet.metrics import MetricsPage, MetricsServicer
from fleet.settings import FleetSettings

_LOG = logs.get("fleet.server")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

S = TypeVar("S", bound=FleetSettings)
Step = Callable[[], Awaitable[None]]
METRICS = metrics_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name


class App:
    """What a service's ``build`` is given to hang its parts on.

    Attributes:
        server: The gRPC server; add servicers to it.
        health: The health servicer; ``set_serving`` is the usual way to it.
        offered: Names of the services, for health and reflection.
    """

    def __init__(self, server: aio.Server) -> None:
        self.server = server
        self.health = health.aio.HealthServicer()
        self.offered: list[str] = []
        self.serves_standard_services = True
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drains: list[Step] = []
        self._stops: list[Step] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def offer(self, service: str) -> None:
        """Announce ``service`` to health (not serving yet) and to reflection."""
        self.offered.append(service)
        await self.health.set(service, _NOT_SERVING)

    async def set_serving(self, service: str, serving: bool) -> None:
        """Tell health whether ``service`` can answer."""
        await self.health.set(service, _SERVING if serving else _NOT_SERVING)

    def on_drain(self, step: Step) -> None:
        """Call ``step`` when the process is told to end, before calls in flight finish."""
        self._drains.append(step)

    def on_stop(self, step: Step) -> None:
        """Call ``step`` after the last call has ended; last registered, first called."""
        self._stops.append(step)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the server; if it raises, the process ends with an error."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
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
            self.failed.exception()  # the starter has seen it
        self.failed.cancel()


class RunningServer:
    """A started service.

    Attributes:
        app: What it was built on.
        address: Where it listens, with the real port.
    """

    def __init__(
        self, app: App, settings: FleetSettings, address: str, page: MetricsPage | None
    ) -> None:
        self.app = app
        self.address = address
        self._settings = settings
        self._page = page

    async def stop(self) -> None:
        """Turn unready, let calls in flight finish within ``drain_s``, release everything."""
        await self.app.health.enter_graceful_shutdown()
        await self.app.drain()
        await self.app.server.stop(self._settings.drain_s)
        await self.app.finish()
        if self._page:
            self._page.close()


Build = Callable[[S, App], Awaitable[None]]


async def start(settings: S, build: Build[S], status: StatusTable) -> RunningServer:
    """Build a service and listen; returns before it is ready (health tells).

    Args:
        settings: The service's settings; port 0 takes a free one.
        build: Adds servicers, offers their names, registers drain and stop steps.
        status: The service's own errors and their status codes.

    Raises:
        OSError: The address is taken or malformed.
    """
    server = aio.server(
        interceptors=[CallInterceptor(status)],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),
        ],
    )
    app = App(server)
    await app.health.set("", _SERVING)
    await build(settings, app)
    if app.serves_standard_services:
        _add_standard_services(app, reflect=settings.reflection)
    address = _bind(server, settings.address)
    page = MetricsPage(settings.metrics_address) if settings.metrics_address else None
    await server.start()
    _LOG.info("listening", address=address, services=app.offered)
    return RunningServer(app, settings, address, page)


def _add_standard_services(app: App, *, reflect: bool) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(app.health, app.server)
    metrics_pb2_grpc.add_MetricsServiceServicer_to_server(MetricsServicer(), app.server)
    if reflect:
        names = [*app.offered, METRICS, HEALTH, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, app.server)


def _bind(server: aio.Server, address: str) -> str:
    """Listen on ``address``; a stale socket file of a killed predecessor is removed first."""
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:").removeprefix("//"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.unlink()
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as err:
        raise OSError(f"cannot listen on {address}: taken or malformed") from err
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


async def run(settings: S, build: Build[S], status: StatusTable) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    try:
        running = await start(settings, build, status)
    except OSError as err:
        _LOG.error("cannot start", reason=str(err))
        return 1
    gc.freeze()  # what start-up made lives as long as the process; collections need not walk it
    stop = asyncio.create_task(stopping.wait())
    ends: set[asyncio.Future[Any]] = {stop, running.app.failed}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    failure = running.app.failed.exception() if running.app.failed.done() else None
    if failure:
        _LOG.error("background work failed", exc_info=failure)
    _LOG.info("draining", limit_s=settings.drain_s)
    await running.stop()
    stop.cancel()
    _LOG.info("stopped")
    return 1 if failure else 0


def serve(settings_type: type[S], build: Build[S], status: StatusTable) -> None:
    """Run a service as this process: settings from the environment, logs, signals, exit status."""
    settings = settings_type()
    logs.setup(settings.log_level)
    sys.exit(uvloop.run(run(settings, build, status)))

"""The application: routes, errors, readiness, and the clients that they use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bem_fleet.services.gateway import feedback, openai_routes, validation
from bem_fleet.services.gateway.body_route import DirectRoutes
from bem_fleet.services.gateway.edge import Edge
from bem_fleet.services.gateway.errors import FORESEEN, on_api_error
from bem_fleet.services.gateway.observations import Observer
from bem_fleet.services.gateway.routing import RouteTable
from bem_fleet.services.gateway.settings import GatewaySettings
from bem_fleet.services.gateway.tracks import Tracks
from bemfleet.mission.v1 import mission_pb2_grpc
from bemfleet.router.v1 import router_pb2, router_pb2_grpc
from bemfleet.validation.v1 import validation_pb2_grpc
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fleet.clients import open_channel, wait_ready
from fleet.streams import StreamWriter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

ROUTER = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name


def make_app(settings: GatewaySettings) -> FastAPI:
    """Build the application; it connects when it starts."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.channel = open_channel(
            settings.router_address, max_message_bytes=settings.max_message_bytes
        )
        app.state.contract = mission_pb2_grpc.MissionServiceStub(app.state.channel)
        app.state.router = router_pb2_grpc.RouterServiceStub(app.state.channel)
        validating = open_channel(
            settings.validation_address, max_message_bytes=settings.max_message_bytes
        )
        table = RouteTable(settings.fleet_address, settings.max_message_bytes)
        observer = Observer(settings.redis_url)
        app.state.tracks = Tracks("router", app.state.router, table, observer)
        beside = [asyncio.create_task(work) for work in (table.follow(), observer.run())]
        app.state.validation = validation_pb2_grpc.ValidationServiceStub(validating)
        app.state.feedback = StreamWriter(settings.redis_url, settings.feedback_stream)
        yield
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await app.state.tracks.close()
        await observer.close()
        await table.close()
        await app.state.feedback.close()
        await validating.close()
        await app.state.channel.close()

    app = FastAPI(title="BEM Fleet gateway", lifespan=life)
    answers = openai_routes.answers
    app.add_middleware(DirectRoutes, routes=answers.routes, prefix=openai_routes.routes.prefix)
    app.add_middleware(Edge, max_body_bytes=settings.max_body_bytes)
    for kind in (*FORESEEN, Exception):
        app.add_exception_handler(kind, on_api_error)
    app.include_router(openai_routes.routes)
    app.include_router(feedback.routes)
    app.include_router(validation.routes)
    app.add_api_route("/healthz", alive)
    app.add_api_route("/readyz", ready)
    app.add_api_route("/metrics", metrics)
    return app


async def alive() -> JSONResponse:
    """Tell that the process runs."""
    return JSONResponse({"status": "alive"})


async def ready(request: Request) -> JSONResponse:
    """Tell whether a request can be answered and feedback kept; 503 with the reason if not."""
    await wait_ready(request.app.state.channel, ROUTER, timeout_s=1.0)
    await request.app.state.feedback.ping()
    return JSONResponse({"status": "ready"})


async def metrics() -> Response:
    """Return the metrics for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

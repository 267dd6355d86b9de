"""FastAPI application of the gateway: routes, error handlers, middleware and readiness."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bem_fleet.services.gateway import (
    adapter_routes,
    embedding_routes,
    feedback,
    fleet_routes,
    generation,
    memory_routes,
    mission_routes,
    openai_routes,
    page_routes,
    responses_routes,
    token_routes,
    validation_routes,
)
from bem_fleet.services.gateway.access_control import AccessMiddleware
from bem_fleet.services.gateway.body_route import JsonBodyDispatcher
from bem_fleet.services.gateway.errors import HANDLED_ERRORS, error_response
from bem_fleet.services.gateway.missions import mission_statuses
from bem_fleet.services.gateway.request_context import RequestContextMiddleware
from bem_fleet.services.gateway.route_roles import RouteRoles, requires
from bem_fleet.services.gateway.settings import GatewaySettings
from bem_fleet.services.gateway.state import open_state, state_of
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fleet import wire
from fleet.access import Role
from fleet.access.own_key import OwnKey
from fleet.certificates import certificates_of
from fleet.metrics import exposition
from fleet.server import access_of
from fleet.tracing import trace_export
from starlette.middleware.cors import CORSMiddleware

EXPOSED_HEADERS = (
    *(wire.REQUEST_ID, wire.TRACK, wire.CONTENT_FILTER),
    *("retry-after", "x-should-retry"),
)
"""Response headers that a web page of another origin may read."""
_READY_TIMEOUT_S = 1.0
_ROUTE_MODULES = (
    *(openai_routes, responses_routes, embedding_routes, adapter_routes, memory_routes),
    *(mission_routes, feedback, fleet_routes, token_routes, validation_routes, page_routes),
)


def make_app(settings: GatewaySettings) -> FastAPI:
    """Build the application; its clients open when it starts.

    Raises:
        KeysFileError: The keys file cannot be used.
        CertificateError: The certificate between pods cannot be used.
    """
    certificates_of(settings)  # a wrong one is an error here, not at the first call
    access, own_key = access_of(settings), OwnKey(settings.service_key_file)
    traces = trace_export(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_state(settings, access, own_key) as app.state.gateway:
            yield
        if traces:
            await traces.close()

    app = FastAPI(title="BEM Fleet gateway", lifespan=lifespan)
    completions, prefix = openai_routes.completion_routes, openai_routes.routes.prefix
    app.add_middleware(JsonBodyDispatcher, routes=completions.routes, prefix=prefix)
    app.add_middleware(
        AccessMiddleware, access=access, own_key=own_key, routes=lambda: RouteRoles(app.routes)
    )
    app.add_middleware(
        RequestContextMiddleware,
        max_body_bytes=settings.max_body_bytes,
        tracer=traces.tracer if traces else None,
    )
    if settings.cors_origins:  # outermost, so that an error of any layer can be read by the page
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    for error in (*HANDLED_ERRORS, Exception):
        app.add_exception_handler(error, error_response)
    for module in _ROUTE_MODULES:
        app.include_router(module.routes)
    app.add_api_route("/healthz", liveness)
    app.add_api_route("/readyz", readiness)
    app.add_api_route("/metrics", metrics)
    return app


@requires(Role.OPEN)
async def liveness() -> JSONResponse:
    """Report that the process runs."""
    return JSONResponse({"status": "alive"})


@requires(Role.OPEN)
async def readiness(request: Request) -> JSONResponse:
    """Report whether completions can be answered and feedback stored, and which missions serve.

    503 with the reason if the OpenAI mission or Redis is unavailable; other missions are reported.
    """
    state = state_of(request)
    await state.openai_mission.wait_ready(generation.SERVICE, _READY_TIMEOUT_S)
    await state.feedback.ping()
    others = {
        name: mission
        for name, mission in state.missions.items()
        if mission is not state.openai_mission
    }
    statuses = {state.openai_mission.name: "serving", **await mission_statuses(others)}
    return JSONResponse({"status": "ready", "missions": statuses})


@requires(Role.OPEN)
async def metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    page, content_type = exposition(request.headers.get("accept", ""))
    return Response(page, media_type=content_type)

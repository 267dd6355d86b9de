"""Scripted missions and a gateway in front of them, all on real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.errors import DeniedError, UnavailableError
from fleet.mission import SERVICE as CONTRACT
from fleet.mission import describe_methods
from fleet.server import App, start
from fleet.settings import FleetSettings
from fleet.testing import free_port

from tests.support.planless_router import PlanlessRouter
from tests.support.waiting import eventually

EASY: dict[str, Any] = {
    "errorMargin": 0.15,
    "violationMargin": 0.15,
    "latencyMargin": 2.0,
    "qualityMargin": 0.3,
    "minAnswered": 0.8,
    "tailRatio": 4.0,
    "p95Margin": 0.15,
    "p99Margin": 0.15,
    "probes": [{"prompt": f"question {i}?", "answers": ["right"]} for i in range(60)],
}
"""A canary analysis that few answers decide."""
SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name


@dataclass
class Script:
    """Script of a model's answers.

    Attributes:
        text: Text of every answer.
        delay_s: Delay before an answer, in seconds.
        fail_every: Period of failing requests; 0: none fails.
        withhold_every: Period of withheld answers; 0: none is withheld.
        break_after: Output deltas of a stream before it breaks; None: it does not break.
    """

    text: str = "right"
    delay_s: float = 0.004
    fail_every: int = 0
    withhold_every: int = 0
    break_after: int | None = None


BAD = {
    "errors": (Script(fail_every=2), "errors"),
    "slow": (Script(delay_s=0.04), "latency"),  # of a busy machine the tail is worse first
    "worse": (Script(text="wrong"), "quality is worse"),
    "unsafe": (Script(withhold_every=2), "violations"),
}
"""Faulty canaries by name, with the reason for which each is rolled back."""


@dataclass
class ScriptedMission(PlanlessRouter, mission_pb2_grpc.MissionServiceServicer):
    """Mission whose models follow scripts.

    Attributes:
        scripts: Scripts by model name; "" is for the base model and for unknown models.
        asked: Number of requests by model.
    """

    scripts: dict[str, Script] = field(default_factory=lambda: {"": Script()})
    asked: Counter[str] = field(default_factory=Counter)

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:  # noqa: N802, ARG002
        """Answer once."""
        text = await self._text(request.request)
        return pb.CompleteResponse(
            text=text, finish_reason=pb.FINISH_REASON_STOP, model_version=request.request.model
        )

    async def CountTokens(  # noqa: N802
        self,
        request: pb.CountTokensRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.CountTokensResponse:
        """Count a token per word."""
        usage = pb.Usage(prompt_tokens=len(request.request.prompt.split()))
        return pb.CountTokensResponse(usage=usage)

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[Any]:  # noqa: N802, ARG002
        """Answer with one output delta per word."""
        script = self._script(request.model)
        yield pb.GenerateResponse(model_version=request.model)
        words = (await self._text(request)).split()
        for index, word in enumerate(words):
            if script.break_after is not None and index >= script.break_after:
                raise UnavailableError("broken in the middle")
            yield pb.GenerateResponse(text=f"{word} ")
        yield pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP, usage=pb.Usage())

    async def Describe(self, request: Any, context: Any) -> mission_pb2.DescribeResponse:  # noqa: N802, ARG002
        """Describe the mission."""
        service = pb.DESCRIPTOR.services_by_name["RouterService"]
        return mission_pb2.DescribeResponse(
            name="router", service=service.full_name, methods=describe_methods(service)
        )

    async def ListAdapters(self, request: Any, context: Any) -> mission_pb2.ListAdaptersResponse:  # noqa: N802, ARG002
        """List the models."""
        adapters = [
            mission_pb2.Adapter(name=name or "base", base=not name) for name in sorted(self.scripts)
        ]
        return mission_pb2.ListAdaptersResponse(adapters=adapters, context_tokens=2048)

    async def LoadAdapter(self, request: Any, context: Any) -> mission_pb2.LoadAdapterResponse:  # noqa: N802, ARG002
        """Load a model."""
        self.scripts.setdefault(request.name, Script())
        return mission_pb2.LoadAdapterResponse(adapter=mission_pb2.Adapter(name=request.name))

    async def UnloadAdapter(self, request: Any, context: Any) -> mission_pb2.UnloadAdapterResponse:  # noqa: N802, ARG002
        """Unload a model."""
        self.scripts.pop(request.name, None)
        return mission_pb2.UnloadAdapterResponse()

    async def Probe(self, request: Any, context: Any) -> mission_pb2.ProbeResponse:  # noqa: N802, ARG002
        """Answer a probe."""
        text = await self._text(pb.GenerateRequest(model=request.model))
        return mission_pb2.ProbeResponse(text=text, model_version=request.model)

    def _script(self, model: str) -> Script:
        return self.scripts.get(model) or self.scripts[""]

    async def _text(self, request: pb.GenerateRequest) -> str:
        script = self._script(request.model)
        self.asked[request.model] += 1
        number = self.asked[request.model]
        await asyncio.sleep(script.delay_s)
        if script.fail_every and number % script.fail_every == 0:
            raise UnavailableError("told to fail")
        if script.withhold_every and number % script.withhold_every == 0:
            raise DeniedError("withheld", "CONTENT_FILTERED", {})
        return script.text


@asynccontextmanager
async def mission(
    address: str, made: ScriptedMission, **settings: Any
) -> AsyncIterator[ScriptedMission]:
    """Serve a scripted mission, with further settings of its server."""

    async def build(_settings: FleetSettings, app: App) -> None:
        rpc.add_RouterServiceServicer_to_server(made, app.server)
        mission_pb2_grpc.add_MissionServiceServicer_to_server(made, app.server)
        for service in (SERVICE, CONTRACT):
            await app.register_service(service)
            await app.set_serving(service, serving=True)

    running = await start(FleetSettings(address=address, drain_s=0, **settings), build, {})
    try:
        yield made
    finally:
        await running.stop()


@asynccontextmanager
async def gateway(redis_url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a gateway; yield a client of it."""
    port = free_port()
    app = make_app(GatewaySettings(redis_url=redis_url, **settings))
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False)
    )
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        await eventually(lambda: server.started, 90)
        yield client
    server.should_exit = True
    await serving


async def ask(
    client: httpx.AsyncClient, session: str = "", model: str = "qa", **more: Any
) -> httpx.Response:
    """Send a chat request to the gateway."""
    body = {"model": model, "messages": [{"role": "user", "content": "what?"}], **more}
    headers = {"x-session-id": session} if session else {}
    return await client.post("/v1/chat/completions", json=body, headers=headers)


def socket_of(folder: Path, service: str) -> str:
    """Return the address of a Service of the test."""
    return f"unix:{folder}/{service}.sock"

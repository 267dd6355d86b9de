"""Sidecar in front of a mission with canned responses."""

from __future__ import annotations

import asyncio
import atexit
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bem_fleet.services.router.servicer import SERVICE
from bem_fleet.services.safety.build import build
from bem_fleet.services.safety.scorer_client import is_ready
from bem_fleet.services.safety.servicer import STATUS
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.certificates import certificates_of
from fleet.clients import open_channel, wait_ready
from fleet.errors import InvalidArgumentError, OverloadedError
from fleet.server import App, RunningServer, start
from fleet.settings import FleetSettings
from fleet.testing import RedisServer
from grpc import aio
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc as oip_rpc

from tests.support.planless_router import PlanlessRouter

REFUSED = "refused"
"""Model that the mission does not serve."""

OIP_SERVICE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


def token_logprobs(text: str, alternatives: Sequence[str] = ()) -> list[pb.TokenLogprob]:
    """Return log-probabilities of the tokens of a text, three bytes each.

    Args:
        text: Text that the tokens spell.
        alternatives: Further candidates at each place, beside the chosen one.
    """
    raw = text.encode()
    entries = []
    for at in range(0, len(raw), 3):
        chosen = pb.LikelyToken(id=at + 1, token=raw[at : at + 3], logprob=-0.5)
        others = [pb.LikelyToken(id=7, token=one.encode(), logprob=-2) for one in alternatives]
        entries.append(pb.TokenLogprob(chosen=chosen, top=[chosen, *others]))
    return entries


class CannedRouter(PlanlessRouter):
    """Streams ``pieces``: ``...`` waits until ``go`` is set, ``!`` announces the last text.

    Attributes:
        alternatives: Further candidates of each token, if a request asks for log-probabilities.
        failure: Text of an error that ends each call; empty for none.
        full_for_s: Delay in seconds with which each call is refused; 0 while there is room.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = ["hello ", "there"]
        self.alternatives: list[str] = []
        self.failure = ""
        self.full_for_s = 0.0
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.metadata: dict[str, Any] = {}
        self.calls = 0

    async def Generate(  # noqa: N802 - the RPC's name
        self, request: pb.GenerateRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the pieces."""
        logprobs = request.sampling.HasField("logprobs")
        self.calls += 1
        self.metadata = dict(context.invocation_metadata() or ())
        if self.full_for_s:
            raise OverloadedError("the queue is full", self.full_for_s)
        try:
            for piece in self.pieces:
                if piece == "...":
                    await self.go.wait()
                elif piece == "!":
                    yield pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP)
                else:
                    tokens = token_logprobs(piece, self.alternatives) if logprobs else ()
                    usage = pb.Usage(prompt_tokens=5, completion_tokens=3)
                    yield pb.GenerateResponse(
                        text=piece, logprobs=tokens, usage=usage, model_version="v1"
                    )
            if self.failure:
                raise InvalidArgumentError("prompt", self.failure)
            yield pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def Complete(  # noqa: N802 - the RPC's name
        self, request: pb.CompleteRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CompleteResponse:
        """Return the pieces at once."""
        whole = pb.CompleteResponse()
        async for piece in self.Generate(request.request, context):
            text = whole.text + piece.text
            whole.MergeFrom(pb.CompleteResponse.FromString(piece.SerializeToString()))
            whole.text = text
        return whole

    async def CountTokens(  # noqa: N802 - the RPC's name
        self, request: pb.CountTokensRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CountTokensResponse:
        """Count words as tokens."""
        del context
        chat = " ".join(one.content for one in request.request.chat.messages)
        count = len((request.request.prompt or chat).split())
        return pb.CountTokensResponse(usage=pb.Usage(prompt_tokens=count), model_version="v1")


class CannedInference(oip_rpc.GRPCInferenceServiceServicer):
    """Echoes each text."""

    async def ModelInfer(  # noqa: N802 - the RPC's name
        self, request: oip.ModelInferRequest, context: aio.ServicerContext[Any, Any]
    ) -> oip.ModelInferResponse:
        """Echo the raw contents."""
        del context
        return oip.ModelInferResponse(raw_output_contents=request.raw_input_contents)

    async def ModelStreamInfer(  # noqa: N802 - the RPC's name
        self,
        request_iterator: AsyncIterator[oip.ModelInferRequest],
        context: aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Echo each request."""
        async for request in request_iterator:
            if request.model_name == REFUSED:
                raise InvalidArgumentError("model_name", "is not served")
            answer = await self.ModelInfer(request, context)
            yield oip.ModelStreamInferResponse(infer_response=answer)


class Scene:
    """A running mission and its sidecar."""

    def __init__(self, router: CannedRouter, sidecar: RunningServer, channel: aio.Channel) -> None:
        self.router = router
        self.sidecar = sidecar
        self.channel = channel
        self.stub: Any = rpc.RouterServiceStub(channel)
        self.inference: Any = oip_rpc.GRPCInferenceServiceStub(channel)

    async def generate(self) -> list[pb.GenerateResponse]:
        """Read one stream to its end."""
        return [answer async for answer in self.stub.Generate(pb.GenerateRequest(prompt="hi"))]


def start_scorer_server(path: Path) -> subprocess.Popen[bytes]:
    """Start a scorer server as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "bem_fleet.services.safety.scorer_server"],
        env={**os.environ, "BEM_SAFETY_SCORER_SOCKET": str(path)},
    )


@cache
def shared_scorer() -> Path:
    """Return the socket of the test session's scorer server, which is started at the first call.

    Loading the scorers takes seconds and 1 GB, so tests share them unless they kill them.
    """
    path = Path(tempfile.mkdtemp()) / "scorer.sock"
    process = start_scorer_server(path)

    def stop() -> None:
        process.terminate()
        process.wait(timeout=30)
        path.parent.rmdir()

    atexit.register(stop)
    deadline = time.monotonic() + 240
    while not is_ready(path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return path


@asynccontextmanager
async def scene(
    folder: Path, redis: RedisServer, *, wait: bool = True, **settings: Any
) -> AsyncIterator[Scene]:
    """Start mission and sidecar on unix sockets.

    Args:
        folder: Folder of the sockets.
        redis: Audit store.
        wait: Whether to wait until both are ready.
        settings: Settings of the sidecar; by default it uses the session's scorer server.
    """
    if "scorer_socket" not in settings:
        settings["scorer_socket"] = await asyncio.to_thread(shared_scorer)
    router = CannedRouter()

    async def mission(_settings: FleetSettings, app: App) -> None:
        rpc.add_RouterServiceServicer_to_server(router, app.server)
        oip_rpc.add_GRPCInferenceServiceServicer_to_server(CannedInference(), app.server)  # type: ignore[abstract]
        for name in (SERVICE, OIP_SERVICE):
            await app.register_service(name)
            await app.set_serving(name, serving=True)

    upstream = await start(FleetSettings(address=f"unix:{folder}/m.sock", drain_s=1), mission, {})
    # A shared machine may stall: only tests of time limits set them.
    patient = {"check_timeout_s": 60, "deep_timeout_s": 60}
    settings = {"address": f"unix:{folder}/s.sock", **patient, **settings}
    own = SafetySettings(
        upstream=upstream.address,
        redis_url=redis.url,
        drain_s=1,
        **settings,
    )
    sidecar = await start(own, build, STATUS)
    try:
        async with open_channel(sidecar.address, certificates=certificates_of(own)) as channel:
            if wait:
                await wait_ready(channel, SERVICE, 240)
            yield Scene(router, sidecar, channel)
    finally:
        await sidecar.stop()
        await upstream.stop()

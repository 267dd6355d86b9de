"""Evaluation of a running fleet over gRPC, through the safety sidecar of the router."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Any, Self

import grpc
from bem.errors import EvaluationError
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc

from bem_fleet.evaluation.systems import Chat, Decoding, Response

# Batch slots of the router: more calls would only wait in its queue.
_MAX_CONCURRENT_CALLS = 16
_RESPONSE_TIMEOUT_S = 600.0
_LIST_TIMEOUT_S = 30.0


class RouterModels:
    """Models of a running router.

    Args:
        address: Address of the router's sidecar, ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self.stub: Any = rpc.RouterServiceStub(self._channel)
        self._missions: Any = mission_pb2_grpc.MissionServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def system(self, model: str = "") -> "GrpcSystem":
        """Return a model by name.

        Args:
            model: Name of a loaded adapter; empty for the base model.

        Raises:
            EvaluationError: The router does not respond, or has no such model.
        """
        try:
            listing = self._missions.ListAdapters(
                mission_pb2.ListAdaptersRequest(), timeout=_LIST_TIMEOUT_S
            )
        except grpc.RpcError as err:
            raise EvaluationError(f"{self.address}: {_error_text(err)}") from err
        base = next(adapter for adapter in listing.adapters if adapter.base)
        for adapter in listing.adapters:
            if adapter.name == (model or base.name):
                version = base.version if adapter.base else f"{base.version}+{adapter.version}"
                return GrpcSystem(self.stub, adapter.name, version)
        names = ", ".join(adapter.name for adapter in listing.adapters)
        raise EvaluationError(f"{self.address} has no model {model!r}; loaded: {names}")


class GrpcSystem:
    """System that responds with one model of a router, through its sidecar.

    Args:
        stub: Stub of the router service.
        name: Name of the model.
        digest: Digest of base model and adapter version, as the router lists them.
    """

    def __init__(self, stub: Any, name: str, digest: str) -> None:
        self._stub = stub
        self.name = name
        self.digest = digest

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Send 16 calls at a time and yield (index, response) in order of completion.

        Raises:
            EvaluationError: A call fails for another reason than a filter.
        """
        with ThreadPoolExecutor(_MAX_CONCURRENT_CALLS) as pool:
            calls = {
                pool.submit(self._complete, chat, decoding, seed): place
                for place, chat in enumerate(chats)
            }
            try:
                for call in as_completed(calls):
                    yield calls[call], call.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _complete(self, chat: Chat, decoding: Decoding, seed: int) -> Response:
        request = pb.GenerateRequest(
            model=self.name,
            chat=pb.ChatPrompt(
                messages=[pb.ChatMessage(role=turn.role, content=turn.content) for turn in chat]
            ),
            sampling=pb.Sampling(temperature=decoding.temperature, seed=seed),
            max_tokens=decoding.max_tokens,
        )
        try:
            completion = self._stub.Complete(
                pb.CompleteRequest(request=request), timeout=_RESPONSE_TIMEOUT_S
            )
        except grpc.RpcError as err:
            # A filtered response is a result of the fleet, with no text; other errors are failures.
            if err.code() is grpc.StatusCode.PERMISSION_DENIED:
                return Response("", 0, 0, refused=_error_text(err))
            raise EvaluationError(f"{self.name}: no response: {_error_text(err)}") from err
        usage = completion.usage
        return Response(completion.text, usage.prompt_tokens, usage.completion_tokens)


def _error_text(err: grpc.RpcError) -> str:
    return f"{err.code().name}: {err.details()}"

"""Systems behind a router's sidecar."""

from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from bem.errors import EvaluationError
from bem_fleet.evaluation.systems import Decoding, Message
from bem_fleet.studies.grpc_system import GrpcSystem


class FakeError(grpc.RpcError):
    """A failed call with its status code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return self._code

    def details(self) -> str:
        """Return the text of the status."""
        return "why"


class FakeStub:
    """Completes every chat with its last text, or fails as the text says."""

    def Complete(self, request: Any, timeout: float) -> Any:  # noqa: N802 - the RPC's name
        """Answer one request."""
        assert timeout > 0
        text = request.request.chat.messages[-1].content
        if text.isupper():
            raise FakeError(grpc.StatusCode[text])
        usage = SimpleNamespace(prompt_tokens=3, completion_tokens=2)
        return SimpleNamespace(text=f"re: {text}", usage=usage)


def chats(*texts: str) -> list[tuple[Message, ...]]:
    """Return one chat a text."""
    return [(Message("user", text),) for text in texts]


def test_each_chat_has_one_response_with_its_tokens() -> None:
    """Responses come with the index of their chat; a filtered one has a reason and no text."""
    system = GrpcSystem(FakeStub(), "m", "d")
    found = dict(system.respond(chats("a", "PERMISSION_DENIED", "b"), Decoding(), 0))

    assert (found[0].text, found[2].text) == ("re: a", "re: b")
    assert (found[0].prompt_tokens, found[0].completion_tokens) == (3, 2)
    assert (found[1].text, found[1].refused) == ("", "PERMISSION_DENIED: why")


def test_failed_call_ends_the_evaluation() -> None:
    """A call that fails for another reason than a filter is an error that names the model."""
    system = GrpcSystem(FakeStub(), "m", "d")
    with pytest.raises(EvaluationError, match="m: no response: UNAVAILABLE: why"):
        dict(system.respond(chats("UNAVAILABLE"), Decoding(), 0))

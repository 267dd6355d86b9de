"""Errors of completions: the caller's own names, and OpenAI's words for a full context."""

from typing import Any

import pytest
from bem_fleet.services.gateway.openai_errors import completion_error
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bem_fleet.services.router.context_limit import ContextOverflowError
from bem_fleet.serving.status import STATUS
from fleet.errors import InvalidArgumentError, to_status
from grpc import aio
from grpc_status import rpc_status

CHAT = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}]})
NEW_NAME = CHAT.model_copy(update={"max_completion_tokens": 90})
PROMPT = CompletionRequest.model_validate({"model": "m", "prompt": "x"})


def rpc_error(err: Exception) -> aio.AioRpcError:
    """Return the error that a client of a mission gets."""
    status = rpc_status.to_status(to_status(err, STATUS))
    trailing = aio.Metadata(*status.trailing_metadata)
    return aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)


def body_of(err: Exception, request: Any) -> dict[str, Any]:
    """Return the error object of the response."""
    error = completion_error(rpc_error(err), request)
    assert error.status == 400
    return dict(error.body)


@pytest.mark.parametrize(
    ("request_", "field", "numbers", "param", "words"),
    [
        (
            CHAT,
            "chat.messages",
            (131, 0, "exactly"),
            "messages",
            (
                "However, your messages resulted in 131 tokens. "
                "Please reduce the length of the messages."
            ),
        ),
        (
            PROMPT,
            "prompt",
            (400, 0, "at least"),
            "prompt",
            (
                "However, your prompt resulted in at least 400 tokens. "
                "Please reduce the length of the prompt."
            ),
        ),
        (
            NEW_NAME,
            "max_tokens",
            (20, 90, "exactly"),
            "max_completion_tokens",
            (
                "However, you requested 110 tokens (20 in the messages, 90 in the completion). "
                "Please reduce the length of the messages or completion."
            ),
        ),
    ],
)
def test_full_context_is_said_in_openais_words(
    request_: Any, field: str, numbers: tuple[int, int, Any], param: str, words: str
) -> None:
    """Clients recognise the code and the first sentence; the rest says what to do."""
    tokens, output, counted = numbers
    overflow = ContextOverflowError(
        field, context_tokens=100, prompt_tokens=tokens, max_tokens=output, counted=counted
    )

    assert body_of(overflow, request_) == {
        "message": f"This model's maximum context length is 100 tokens. {words}",
        "type": "invalid_request_error",
        "param": param,
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize(
    ("request_", "field", "param"),
    [
        (CHAT, "request.chat.messages[3].content", "messages.3.content"),
        (CHAT, "chat.messages[0].role", "messages.0.role"),
        (CHAT, "chat.continue_final_message", "continue_final_message"),
        (CHAT, "sampling.logprobs", "top_logprobs"),
        (PROMPT, "sampling.logprobs", "logprobs"),
        (CHAT, "max_tokens", "max_tokens"),
        (NEW_NAME, "max_tokens", "max_completion_tokens"),
    ],
)
def test_fields_have_the_names_that_the_caller_sent(request_: Any, field: str, param: str) -> None:
    """Param and message have the path within the body, once."""
    error = body_of(InvalidArgumentError(field, "is wrong; correct it"), request_)

    assert error["param"] == param
    assert error["message"] == f"{param}: is wrong; correct it"

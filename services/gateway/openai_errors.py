"""Errors of the OpenAI routes: gRPC errors of a mission in the names and words of OpenAI's API."""

from collections.abc import Mapping

import grpc
from bem_fleet.services.gateway.errors import ApiError, from_rpc
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.response_format import field_names
from fleet import wire
from fleet.errors import details_of


def completion_error(err: grpc.RpcError, body: ChatRequest | CompletionRequest) -> ApiError:
    """Return the HTTP error for a failed completion; it names the field that the caller sent.

    Args:
        err: Error of a call to the mission.
        body: Body of the request.
    """
    error, details = from_rpc(err), details_of(err)
    chat = isinstance(body, ChatRequest)
    if details.reason == wire.CONTEXT_LENGTH_EXCEEDED:
        # Clients such as LiteLLM recognise the error by these words of OpenAI's API.
        error.body["message"] = _context_message(details.metadata, chat=chat)
    if isinstance(body, ChatRequest) and body.max_completion_tokens:
        error.rename("max_tokens", "max_completion_tokens")
    if chat:
        error.rename("logprobs", "top_logprobs")
    for field, name in field_names(body).items():
        error.rename(field, name)
    return error


def _context_message(metadata: Mapping[str, str], *, chat: bool) -> str:
    limit, prompt = metadata["context_tokens"], metadata["prompt_tokens"]
    output = int(metadata["max_tokens"])
    text = "messages" if chat else "prompt"
    if not output:
        count = f"at least {prompt}" if metadata["counted"] == "at least" else prompt
        return (
            f"This model's maximum context length is {limit} tokens. However, your {text} resulted "
            f"in {count} tokens. Please reduce the length of the {text}."
        )
    return (
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{int(prompt) + output} tokens ({prompt} in the {text}, {output} in the completion). "
        f"Please reduce the length of the {text} or completion."
    )

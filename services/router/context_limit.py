"""Context limit of a request: the longest output that fits, and the error when none does."""

from dataclasses import dataclass
from typing import Literal

from bem.errors import InvalidRequestError
from bemfleet.router.v1 import router_pb2 as pb
from fleet.wire import CONTEXT_LENGTH_EXCEEDED


@dataclass(frozen=True)
class DefaultTokens:
    """Output limits of requests that set none.

    Attributes:
        chat: Most tokens after a conversation; 0 allows all that the context leaves.
        completion: Most tokens after a raw prompt; 0 allows all that the context leaves.
    """

    chat: int = 0
    completion: int = 16


class ContextOverflowError(InvalidRequestError):
    """Prompt and output of a request do not fit the context.

    Args:
        field: Request field that is too long.
        context_tokens: Limit of prompt and output together, in tokens.
        prompt_tokens: Tokens of the prompt.
        max_tokens: Tokens of output that the request needs; 0 if the prompt alone is too long.
        counted: ``at least`` if the prompt has more tokens than ``prompt_tokens``.

    Attributes:
        reason: Reason in ``google.rpc.ErrorInfo``.
        metadata: Metadata of the reason.
    """

    def __init__(
        self,
        field: str,
        *,
        context_tokens: int,
        prompt_tokens: int,
        max_tokens: int = 0,
        counted: Literal["exactly", "at least"] = "exactly",
    ) -> None:
        count = f"at least {prompt_tokens}" if counted == "at least" else str(prompt_tokens)
        problem = (
            f"the prompt's {count} tokens and {max_tokens} of output exceed the context; the limit "
            f"is {context_tokens} tokens together; shorten the prompt or reduce max_tokens"
            if max_tokens
            else f"{count} tokens exceed the context; the limit is {context_tokens} tokens, prompt "
            "and output together; shorten the text"
        )
        super().__init__(field, problem)
        self.reason = CONTEXT_LENGTH_EXCEEDED
        self.metadata = {
            "context_tokens": str(context_tokens),
            "prompt_tokens": str(prompt_tokens),
            "max_tokens": str(max_tokens),
            "counted": counted,
        }


def output_limit(
    request: pb.GenerateRequest,
    *,
    prompt_tokens: int,
    context_tokens: int,
    defaults: DefaultTokens,
) -> int:
    """Return the most tokens that the request may generate; a default shrinks to the context.

    Args:
        request: Request as received.
        prompt_tokens: Tokens of its rendered prompt.
        context_tokens: Limit of prompt and output together, in tokens.
        defaults: Limits of requests that set none.

    Raises:
        ContextOverflowError: The prompt leaves no room, or less than the request asks for.
        InvalidRequestError: ``max_tokens`` is below 1, or below 0 with ``echo``.
    """
    left = context_tokens - prompt_tokens
    is_chat = request.WhichOneof("input") == "chat"
    wanted = defaults.chat if is_chat else defaults.completion
    least = 0 if request.echo else 1
    is_set = request.HasField("max_tokens")
    if is_set:
        wanted = request.max_tokens
        if wanted < least:
            raise InvalidRequestError(
                "max_tokens", f"{wanted} is too small; at least {least} is allowed; raise it"
            )
    if left < min(1, wanted if is_set else 1):
        raise ContextOverflowError(
            input_field(request),
            context_tokens=context_tokens,
            prompt_tokens=prompt_tokens,
            max_tokens=0 if left < 0 else 1,
        )
    if is_set and wanted > left:
        raise ContextOverflowError(
            "max_tokens",
            context_tokens=context_tokens,
            prompt_tokens=prompt_tokens,
            max_tokens=wanted,
        )
    return wanted if is_set else min(wanted or left, left)


def input_field(request: pb.GenerateRequest) -> str:
    """Return the name of the request's input field."""
    return "chat.messages" if request.WhichOneof("input") == "chat" else "prompt"

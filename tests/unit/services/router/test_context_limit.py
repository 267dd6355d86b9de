"""Context limit: defaults by kind of input, and errors that say how much is too much."""

import pytest
from bem.errors import InvalidRequestError
from bem_fleet.services.router.context_limit import (
    ContextOverflowError,
    DefaultTokens,
    output_limit,
)
from bem_fleet.serving.status import STATUS
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import to_status
from fleet.wire import CONTEXT_LENGTH_EXCEEDED
from google.rpc import error_details_pb2

CHAT = pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="x")]))
PROMPT = pb.GenerateRequest(prompt="x")


def limit(
    request: pb.GenerateRequest, prompt_tokens: int = 10, defaults: DefaultTokens | None = None
) -> int:
    """Return the output limit in a context of 100 tokens."""
    return output_limit(
        request,
        prompt_tokens=prompt_tokens,
        context_tokens=100,
        defaults=defaults or DefaultTokens(),
    )


def asking(max_tokens: int) -> pb.GenerateRequest:
    """Return a request with a limit of its own."""
    return pb.GenerateRequest(prompt="x", max_tokens=max_tokens)


def test_unset_limit_is_the_rest_of_the_context_for_a_chat_and_short_for_a_prompt() -> None:
    """Both defaults are settings, and shrink to what the context leaves."""
    small = DefaultTokens(chat=7, completion=0)

    assert (limit(CHAT), limit(PROMPT)) == (90, 16)
    assert (limit(CHAT, 99), limit(PROMPT, 95)) == (1, 5)
    assert (limit(CHAT, defaults=small), limit(PROMPT, defaults=small)) == (7, 90)


def test_set_limit_is_kept_up_to_the_context() -> None:
    """What a caller asks for is never shortened silently."""
    assert (limit(asking(90)), limit(asking(1), 99)) == (90, 1)


def test_an_echo_may_fill_the_context_and_generate_nothing() -> None:
    """Only then is 0 a limit."""
    nothing = pb.GenerateRequest(prompt="x", max_tokens=0, echo=True)

    assert (limit(nothing), limit(nothing, 100)) == (0, 0)
    for request, tokens in ((nothing, 101), (asking(0), 10)):
        with pytest.raises(InvalidRequestError):
            limit(request, tokens)


@pytest.mark.parametrize(
    ("request_", "prompt_tokens", "field", "max_tokens"),
    [
        (CHAT, 131, "chat.messages", "0"),
        (PROMPT, 100, "prompt", "1"),
        (asking(91), 10, "max_tokens", "91"),
    ],
)
def test_overflow_has_its_numbers_on_the_wire(
    request_: pb.GenerateRequest, prompt_tokens: int, field: str, max_tokens: str
) -> None:
    """The status has the field, a reason of its own and the token counts."""
    with pytest.raises(ContextOverflowError) as caught:
        limit(request_, prompt_tokens)
    info = error_details_pb2.ErrorInfo()
    details = to_status(caught.value, STATUS).details

    assert caught.value.field == field
    assert details[1].Unpack(info)
    assert info.reason == CONTEXT_LENGTH_EXCEEDED
    assert dict(info.metadata) == {
        "context_tokens": "100",
        "prompt_tokens": str(prompt_tokens),
        "max_tokens": max_tokens,
        "counted": "exactly",
    }


def test_zero_tokens_are_no_limit() -> None:
    """A limit of 0 is an error, not the default."""
    with pytest.raises(InvalidRequestError, match="at least 1"):
        limit(asking(0))

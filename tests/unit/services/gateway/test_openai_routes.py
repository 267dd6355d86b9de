"""Token counts and chunks of a streamed completion."""

import json
from collections.abc import AsyncGenerator

from bem_fleet.services.gateway.generation import ChoiceDelta
from bem_fleet.services.gateway.openai_routes import _events, _usage
from bem_fleet.services.gateway.openai_schema import ChatRequest
from bemfleet.router.v1 import router_pb2 as pb

END = pb.GenerateResponse(
    finish_reason=pb.FINISH_REASON_STOP, usage=pb.Usage(prompt_tokens=5, completion_tokens=2)
)


def test_prompt_with_several_choices_counts_once() -> None:
    """Two prompts of two choices each: ten prompt tokens, eight completion tokens."""
    choices = [ChoiceDelta(index, END) for index in range(4)]

    assert _usage(choices, prompts=2) == {
        "prompt_tokens": 10,
        "completion_tokens": 8,
        "total_tokens": 18,
    }


async def test_chunks_open_with_the_role_and_end_with_usage() -> None:
    """The last write has the finish reason, the usage and [DONE] together."""
    body = ChatRequest.model_validate(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "stream_options": {"include_usage": True},
        }
    )

    async def deltas() -> AsyncGenerator[ChoiceDelta]:
        yield ChoiceDelta(0, END)

    first = ChoiceDelta(0, pb.GenerateResponse(text="hi", model_version="v"))
    head = {"id": "i", "object": "chat.completion", "created": 0, "model": "m"}
    writes = [event async for event in _events(body, head, first, deltas(), choices=1)]

    opening, last = (write.decode().split("\n\n")[:-1] for write in writes)
    chunks = [json.loads(line.removeprefix("data: ")) for line in [*opening, *last[:-1]]]
    assert last[-1] == "data: [DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:3]] == [
        {"role": "assistant", "content": ""},
        {"content": "hi"},
        {},
    ]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[3]["usage"]["total_tokens"] == 7

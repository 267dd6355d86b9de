"""Token counts and chunks of a streamed completion."""

import json
from collections.abc import AsyncGenerator
from typing import Any

from bem_fleet.services.gateway.generation import ChoiceDelta
from bem_fleet.services.gateway.openai_routes import _events, _usage
from bem_fleet.services.gateway.openai_schema import ChatRequest
from bem_fleet.services.gateway.withheld import withheld_by
from bemfleet.router.v1 import router_pb2 as pb

from tests.unit.services.gateway.test_withheld import denied

END = pb.GenerateResponse(
    finish_reason=pb.FINISH_REASON_STOP, usage=pb.Usage(prompt_tokens=5, completion_tokens=2)
)


def test_prompt_with_several_choices_counts_once() -> None:
    """Two prompts of two choices each: ten prompt tokens, eight completion tokens."""
    choices = [ChoiceDelta(index, END) for index in range(4)]

    assert _usage(choices, 2) == {
        "prompt_tokens": 10,
        "completion_tokens": 8,
        "total_tokens": 18,
    }
    # While the answer streams, any of the choices may have begun.
    assert _usage([choices[3], choices[1]], 2)["prompt_tokens"] == 10


async def events_of(**stream_options: bool) -> list[list[str]]:
    """Return the events of each write of a short streamed chat."""
    body = ChatRequest.model_validate(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "stream_options": stream_options,
        }
    )

    async def deltas() -> AsyncGenerator[ChoiceDelta]:
        yield ChoiceDelta(0, END)

    so_far = pb.Usage(prompt_tokens=5, completion_tokens=1)
    first = ChoiceDelta(0, pb.GenerateResponse(text="hi", model_version="v", usage=so_far))
    head = {"id": "i", "object": "chat.completion", "created": 0, "model": "m"}
    writes = [event async for event in _events(body, head, first, deltas(), choices=1)]
    return [write.decode().split("\n\n")[:-1] for write in writes]


def decoded(events: list[str]) -> list[dict[str, Any]]:
    """Return the chunks of events."""
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_usage_so_far_comes_with_each_chunk_if_requested() -> None:
    """VLLM's continuous_usage_stats; without options there is no usage at all."""
    opening, last = await events_of(continuous_usage_stats=True)
    plain = decoded([event for write in await events_of() for event in write][:-1])

    assert [chunk["usage"]["completion_tokens"] for chunk in decoded([*opening, *last[:-1]])] == [
        *(1, 1, 2),
    ]
    assert not any("usage" in chunk for chunk in plain)


async def test_chunks_open_with_the_role_and_end_with_usage() -> None:
    """The last write has the finish reason, the usage and [DONE] together."""
    opening, last = await events_of(include_usage=True)
    chunks = decoded([*opening, *last[:-1]])

    assert last[-1] == "data: [DONE]"
    assert [chunk["usage"] for chunk in chunks[:3]] == [None] * 3
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:3]] == [
        {"role": "assistant", "content": ""},
        {"content": "hi"},
        {},
    ]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[3]["usage"]["total_tokens"] == 7


async def test_withheld_choice_says_why_in_its_last_chunk() -> None:
    """Reason, counts and fingerprint come with a stream that has no text at all."""
    reason = withheld_by(denied())
    end = pb.GenerateResponse(usage=pb.Usage(prompt_tokens=5), model_version="v")
    body = ChatRequest.model_validate(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "stream_options": {"include_usage": True},
        }
    )

    async def deltas() -> AsyncGenerator[ChoiceDelta]:
        return
        yield  # an empty generator

    head = {"id": "i", "object": "chat.completion", "created": 0, "model": "m"}
    withheld = ChoiceDelta(0, end, reason)
    events = _events(body, head, withheld, deltas(), choices=1)
    (write,) = [event.decode().split("\n\n")[:-1] async for event in events]
    opening, last, usage = decoded(write[:-1])

    assert last["choices"][0]["finish_reason"] == "content_filter"
    assert last["choices"][0]["content_filter_result"]["harm"]["filtered"]
    assert (opening["system_fingerprint"], usage["usage"]["prompt_tokens"]) == ("v", 5)

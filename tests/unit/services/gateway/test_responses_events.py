"""Response objects and their events: OpenAI's own types accept them."""

import json
from typing import Any

from bem_fleet.services.gateway.generation import ChoiceDelta
from bem_fleet.services.gateway.responses_events import ResponseWriter
from bem_fleet.services.gateway.responses_schema import ResponsesRequest
from bemfleet.router.v1 import router_pb2 as pb
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
BODY = ResponsesRequest(model="m", input="hi", include=["message.output_text.logprobs"])
TOKEN = pb.TokenLogprob(chosen=pb.LikelyToken(id=1, token=b"he", logprob=-0.5))


def delta(text: str, reason: Any = pb.FINISH_REASON_UNSPECIFIED, **more: Any) -> ChoiceDelta:
    """Return a delta of the router."""
    return ChoiceDelta(0, pb.GenerateResponse(text=text, finish_reason=reason, **more))


def events(raw: bytes) -> list[dict[str, Any]]:
    """Return the data of encoded events, which OpenAI's types accept and which name their type."""
    found = []
    for block in raw.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        EVENTS.validate_python(found[-1])
    return found


def test_events_are_opens_in_order() -> None:
    """Created, in progress, item, part, deltas, and all of it closed again."""
    writer = ResponseWriter(BODY, stored=True)
    raw = writer.opening() + writer.event(delta("he", logprobs=[TOKEN])) + writer.event(delta(""))
    last = delta("llo", pb.FINISH_REASON_STOP, usage=pb.Usage(prompt_tokens=3, completion_tokens=2))
    found = events(raw + writer.event(last) + writer.closing())

    assert [one["type"].removeprefix("response.") for one in found] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [one["sequence_number"] for one in found] == list(range(10))
    assert [one["delta"] for one in found if "delta" in one] == ["he", "llo"]
    assert found[4]["logprobs"][0]["token"] == "he"
    whole = Response.model_validate(found[-1]["response"])
    assert whole.output_text == found[6]["text"] == "hello"
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.total_tokens) == (3, 5)
    assert found[0]["response"]["output"] == []


def test_cut_answers_are_incomplete_and_say_why() -> None:
    """A limit is no completion."""
    writer = ResponseWriter(BODY, stored=False)
    writer.add(delta("he", pb.FINISH_REASON_LENGTH))
    found = Response.model_validate(writer.response())

    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    assert writer.response()["store"] is False


def test_an_error_within_the_stream_is_a_failed_response() -> None:
    """Its code is one of OpenAI's."""
    writer = ResponseWriter(BODY, stored=True)
    (failed,) = events(writer.failure({"type": "server_error", "message": "gone"}))

    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "gone"}


def test_ids_are_not_guessed() -> None:
    """They alone name what a key has kept."""
    names = {ResponseWriter(BODY, stored=True).identifier for _ in range(50)}

    assert len(names) == 50
    assert min(map(len, names)) >= 40

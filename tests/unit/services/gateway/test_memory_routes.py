"""Memory routes: bodies and their limits; calls over real sockets are in tests/integration."""

from collections.abc import AsyncIterator

import pytest
from bem_fleet.services.gateway.memory_routes import (
    PART_CHARS,
    IngestBody,
    QueryBody,
    _json,
    _last_progress,
    _messages,
    routes,
)
from bemfleet.memory.v1 import memory_pb2 as pb
from pydantic import ValidationError


def test_paths_are_those_of_the_readme() -> None:
    """Five routes, all under one prefix."""
    paths = {route.path for route in routes.routes}  # type: ignore[attr-defined]

    assert paths == {
        f"/v1/memory/{name}" for name in ("ingest", "query", "coverage", "sessions", "forget")
    }


async def test_long_text_is_sent_in_parts() -> None:
    """Head, parts within the mission's limit, end; joined they are the text."""
    text = "ab" * PART_CHARS
    body = IngestBody(session="s", document="d", text=text, offset=3)
    sent = [pb.IngestRequest.FromString(one) async for one in _messages(body)]
    unfinished = [one async for one in _messages(body.model_copy(update={"end": False}))]

    assert (sent[0].head.session, sent[0].head.offset) == ("s", 3)
    assert not sent[0].head.HasField("budget_bytes")
    assert "".join(one.text for one in sent[1:-1]) == text
    assert max(len(one.text) for one in sent) <= PART_CHARS
    assert sent[-1].end
    assert len(unfinished) == len(sent) - 1


async def test_tokens_are_those_of_the_whole_request() -> None:
    """Tokens are counted where a sentence ends, the last ones with the document's end."""

    async def progress() -> AsyncIterator[bytes]:
        yield pb.IngestResponse(acknowledged=40, tokens=9).SerializeToString()
        yield pb.IngestResponse(acknowledged=55, tokens=5, complete=True).SerializeToString()

    last = await _last_progress(progress())

    assert (last.tokens, last.acknowledged, last.complete) == (14, 55, True)


def test_unknown_fields_and_numbers_out_of_range_are_refused() -> None:
    """A misspelt field is named; NaN is no threshold."""
    for extra in (
        {"topk": 1},
        {"threshold": float("nan")},
        {"max_tokens": -1},
        {"session": "x" * 65},
    ):
        with pytest.raises(ValidationError, match=next(iter(extra))):
            QueryBody.model_validate({"session": "s", "question": "q", **extra})


def test_integers_are_numbers_in_json() -> None:
    """Offsets are numbers at every depth, and a text of digits stays a text."""
    span = pb.Span(document="7", begin=3, end=5, text="12")

    shown = _json(pb.QueryResponse(span=span))["span"]
    assert (shown["begin"], shown["end"], shown["text"], shown["document"]) == (3, 5, "12", "7")

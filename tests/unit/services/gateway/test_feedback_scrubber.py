"""Scrubbing of feedback, with a sidecar that finds one word."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.feedback_scrubber import FeedbackScrubber
from bem_fleet.services.gateway.openai_schema import FeedbackRequest
from bemfleet.safety.v1 import safety_pb2 as pb
from bemfleet.safety.v1 import safety_pb2_grpc as rpc

SECRET = "jo@example.com"
OWN = "chatcmpl-" + "0af7651916cd43dd8448eb211c80319c"


class Sidecar(rpc.SafetyServiceServicer):
    """Redacts one address, and keeps what it was asked."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def Redact(self, request: pb.RedactRequest, context: Any) -> pb.RedactResponse:  # noqa: N802, ARG002
        """Replace the address."""
        self.texts += request.texts
        redacted = [text.replace(SECRET, "[EMAIL_ADDRESS]") for text in request.texts]
        return pb.RedactResponse(texts=redacted, labels=["EMAIL_ADDRESS"])


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[tuple[Sidecar, FeedbackScrubber]]:
    """A sidecar, and a scrubber that asks it."""
    servicer = Sidecar()  # type: ignore[abstract] # only Redact is called
    server = grpc.aio.server()
    rpc.add_SafetyServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/s.sock")
    await server.start()
    (tmp_path / "key").write_text("k\n")
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s.sock") as channel:
        yield servicer, FeedbackScrubber(rpc.SafetyServiceStub(channel), tmp_path / "key")
    await server.stop(0)


def feedback(**fields: Any) -> FeedbackRequest:
    """Return feedback with the address in every field that a client writes."""
    given: dict[str, Any] = dict.fromkeys(("completion_id", "correction", "comment"), SECRET)
    given |= {"session": SECRET, "tags": [f"a {SECRET}", "b"]}
    return FeedbackRequest.model_validate({**given, **fields})


async def test_every_field_is_scrubbed(sidecar: tuple[Sidecar, FeedbackScrubber]) -> None:
    """With consent the texts are kept without the address; the session is a keyed hash."""
    stored = await sidecar[1].scrub(feedback(consent=True), SECRET)

    assert SECRET not in str(stored)
    assert stored["correction"] == stored["comment"] == stored["completion_id"] == "[EMAIL_ADDRESS]"
    assert stored["request_id"] == "[EMAIL_ADDRESS]"
    assert json.loads(stored["tags"]) == ["a [EMAIL_ADDRESS]", "b"]
    assert stored["session"] == sidecar[1].pseudonym("session", SECRET)
    assert stored["redacted"] == "EMAIL_ADDRESS"


async def test_without_consent_no_free_text_is_kept(
    sidecar: tuple[Sidecar, FeedbackScrubber],
) -> None:
    """Lengths, tags and ids remain, scrubbed; correction and comment do not even leave here."""
    stored = await sidecar[1].scrub(feedback(correction="Paris", consent=False), OWN)

    assert SECRET not in str(stored)
    assert (stored["correction"], stored["comment"], stored["session"]) == ("", "", "")
    assert (stored["correction_chars"], stored["comment_chars"]) == ("5", str(len(SECRET)))
    assert json.loads(stored["tags"]) == ["a [EMAIL_ADDRESS]", "b"]
    assert "Paris" not in sidecar[0].texts


async def test_own_ids_are_kept_without_asking(sidecar: tuple[Sidecar, FeedbackScrubber]) -> None:
    """A random id of the gateway joins feedback and audit; it has no text of a client."""
    body = FeedbackRequest(completion_id=OWN, rating="up")
    stored = await sidecar[1].scrub(body, OWN.removeprefix("chatcmpl-"))

    assert stored["completion_id"] == OWN
    assert sidecar[0].texts == []


def test_pseudonyms_are_keyed_and_separate(tmp_path: Path) -> None:
    """The same text gives the same hash under one key and purpose, and another under another."""
    (tmp_path / "a").write_text("k")
    (tmp_path / "empty").write_text("\n")
    stub: Any = None
    first, same, other = (FeedbackScrubber(stub, file) for file in (*[tmp_path / "a"] * 2, None))

    assert first.pseudonym("session", "x") == same.pseudonym("session", "x")
    assert first.pseudonym("session", "x") != first.pseudonym("idempotency-key", "x")
    assert first.pseudonym("session", "x") != other.pseudonym("session", "x")
    assert first.pseudonym("session", None) == first.pseudonym("session", "") == ""
    with pytest.raises(ValueError, match="is empty"):
        FeedbackScrubber(stub, tmp_path / "empty")


async def test_nothing_passes_without_the_sidecar(tmp_path: Path) -> None:
    """No answer is an error: the caller stores nothing."""
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/none.sock") as channel:
        scrubber = FeedbackScrubber(rpc.SafetyServiceStub(channel), None)
        with pytest.raises(grpc.RpcError):
            await scrubber.scrub(feedback(consent=True), OWN)

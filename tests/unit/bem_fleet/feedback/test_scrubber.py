"""Scrubbing of feedback, with a sidecar that finds one word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.feedback.record import USER, Feedback, parse_record
from bem_fleet.feedback.scrubber import FeedbackScrubber
from bemfleet.safety.v1 import safety_pb2 as pb
from bemfleet.safety.v1 import safety_pb2_grpc as rpc
from fleet.access import Principal, Role

SECRET = "jo@example.com"
WRITTEN = ("completion_id", "correction", "edit", "comment", "prompt", "answer", "session", "user")
ACME = Principal("web", Role.USER, "acme")
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


def feedback(**fields: Any) -> Feedback:
    """Return feedback with the address in every field that a client writes."""
    given: dict[str, Any] = {**dict.fromkeys(WRITTEN, SECRET), "tags": (f"a {SECRET}", "b")}
    return Feedback(**{**given, **fields})


async def test_every_field_is_scrubbed(sidecar: tuple[Sidecar, FeedbackScrubber]) -> None:
    """With consent the texts are kept without the address; user and session are keyed hashes."""
    stored = await sidecar[1].scrub(feedback(consent=True), ACME, SECRET)

    assert SECRET not in str(stored)
    for name in (
        "completion_id",
        "request_id",
        "correction",
        "edit",
        "comment",
        "prompt",
        "answer",
    ):
        assert getattr(stored, name) == "[EMAIL_ADDRESS]"
    assert stored.tags == ("a [EMAIL_ADDRESS]", "b")
    assert stored.session == sidecar[1].pseudonym("session", SECRET)
    assert stored.user == sidecar[1].user(ACME, SECRET)
    assert stored.redacted == ("EMAIL_ADDRESS",)
    assert parse_record(stored.to_json().encode()) == stored


async def test_without_consent_no_free_text_is_kept(
    sidecar: tuple[Sidecar, FeedbackScrubber],
) -> None:
    """Lengths, tags and ids remain, scrubbed; texts do not even leave here, and nobody is named."""
    stored = await sidecar[1].scrub(feedback(correction="Paris", consent=False), ACME, OWN)

    assert SECRET not in str(stored)
    assert {stored.correction, stored.edit, stored.comment, stored.prompt, stored.answer} == {""}
    assert (stored.session, stored.user) == ("", "")
    assert (stored.correction_chars, stored.comment_chars) == (5, len(SECRET))
    assert stored.tags == ("a [EMAIL_ADDRESS]", "b")
    assert "Paris" not in sidecar[0].texts
    assert parse_record(stored.to_json().encode()) == stored


async def test_own_ids_are_kept_without_asking(sidecar: tuple[Sidecar, FeedbackScrubber]) -> None:
    """A random id of the gateway joins feedback and audit; it has no text of a client."""
    written = Feedback(OWN, rating="up")
    stored = await sidecar[1].scrub(written, ACME, OWN.removeprefix("chatcmpl-"))

    assert stored.completion_id == OWN
    assert sidecar[0].texts == []


def test_users_are_those_of_a_key() -> None:
    """End users of one key share its half; of another key the same name is another user."""
    stub: Any = None
    scrubber = FeedbackScrubber(stub, None)
    other = Principal("app", Role.USER, "acme")
    one, two, none, foreign = (
        scrubber.user(caller, name)
        for caller, name in ((ACME, "jo"), (ACME, "al"), (ACME, None), (other, "jo"))
    )

    assert len({one, two, none, foreign}) == 4
    assert all(USER.fullmatch(each) for each in (one, two, none, foreign))
    assert one[:32] == two[:32] == none[:32] != foreign[:32]
    assert scrubber.once_key(ACME, "k") != scrubber.once_key(other, "k")
    assert scrubber.once_key(ACME, None) is None


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
            await scrubber.scrub(feedback(consent=True), ACME, OWN)

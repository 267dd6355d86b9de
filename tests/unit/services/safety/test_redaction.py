"""Redaction of protobuf messages."""

import pytest
from bem_fleet.guard.findings import Span
from bem_fleet.services.safety.redaction import (
    NotRedactableError,
    has_entries,
    redact_stream_text,
    redact_tokens,
    replace_texts,
)
from bem_fleet.services.safety.text_slots import text_slots
from bemfleet.router.v1 import router_pb2 as pb
from google.rpc import error_details_pb2
from inference import open_inference_pb2 as oip

from tests.unit.services.safety.test_token_redaction import logprobs


def test_stream_message_loses_only_its_part_of_a_span() -> None:
    """Offsets count from the start of the stream; other fields are unchanged."""
    message = pb.GenerateResponse(text="mail ab@cd", model_version="v1")
    redact_stream_text(message, list(text_slots(message)), [Span(105, 115, "EMAIL", 1, "pii")], 100)

    assert message == pb.GenerateResponse(text="mail [EMAIL]", model_version="v1")


def test_key_of_a_map_is_not_redactable() -> None:
    """Another key would be another entry; the error names the field and not the key."""
    message = error_details_pb2.ErrorInfo(metadata={"jane@example.com": "x"})
    slot = next(slot for slot in text_slots(message) if slot.text.startswith("jane"))
    with pytest.raises(NotRedactableError, match=r"^metadata\[0\]\.key$"):
        replace_texts(message, [(slot, "x")])


def test_bare_tokens_are_not_redactable_beside_a_redacted_text() -> None:
    """Ids outside of entries spell the text, and nothing says which part of it."""
    message = oip.ModelInferResponse(raw_output_contents=[b"\x04\x00\x00\x00abcd"])
    message.outputs.add().contents.int_contents.extend([1, 2])
    (slot,) = text_slots(message)
    with pytest.raises(NotRedactableError, match="tokens beside raw_output_contents"):
        replace_texts(message, [(slot, "x")])


def test_tokens_of_a_complete_text_are_redacted_with_it() -> None:
    """The entries spell the redacted text."""
    message = pb.CompleteResponse(text="to a@b.c.", logprobs=logprobs("to", " a@", "b.c", "."))
    slots = list(text_slots(message))
    spans = [Span(3, 8, "E", 1, "pii")]
    ((text, kept),) = redact_tokens(message, slots, {"text": spans}, {})

    assert [one.chosen.token for one in message.logprobs] == [b"to", b" [E]", b"", b"."]
    assert (text, [one.entry.chosen.token for one in kept]) == ("to a@b.c.", [b"to", b"."])


def test_tokens_without_a_text_are_dropped() -> None:
    """What no text covers was not judged."""
    message = pb.CompleteResponse(logprobs=logprobs("secret"))

    assert has_entries(message)
    assert redact_tokens(message, list(text_slots(message)), {}, {}) == []
    assert not has_entries(message)

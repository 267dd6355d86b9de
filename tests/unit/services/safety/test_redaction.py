"""Redaction of protobuf messages."""

import pytest
from bem_fleet.guard.findings import Span
from bem_fleet.services.safety.redaction import (
    NotRedactableError,
    redact_message,
    replace_texts,
)
from bemfleet.common.v1 import text_pb2
from bemfleet.router.v1 import router_pb2 as pb
from inference import open_inference_pb2 as oip


def test_stream_message_loses_only_its_part_of_a_span() -> None:
    """Offsets count from the start of the stream; other fields are unchanged."""
    message = pb.GenerateResponse(text="mail ab@cd", model_version="v1")
    redacted = redact_message(
        message, text_pb2.TEXT_ROLE_OUTPUT_DELTA, [Span(105, 115, "EMAIL", 1.0, "pii")], 100
    )

    assert redacted == pb.GenerateResponse(text="mail [EMAIL]", model_version="v1")
    assert message.text == "mail ab@cd"


def test_bytes_are_not_redactable() -> None:
    """A length before the bytes would lie: such a message is not replace_texts."""
    message = oip.ModelInferResponse(raw_output_contents=[b"\x04\x00\x00\x00abcd"])
    with pytest.raises(NotRedactableError, match="raw_output_contents"):
        replace_texts(message, {"raw_output_contents": "x"})

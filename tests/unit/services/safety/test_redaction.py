"""Cutting spans out of texts and messages."""

from itertools import pairwise

import pytest
from bem_fleet.guard.findings import Span
from bem_fleet.services.safety.redaction import NotRedactableError, cut, merge_spans, replace_texts, without
from bemfleet.common.v1 import text_pb2
from bemfleet.router.v1 import router_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from inference import open_inference_pb2 as oip

SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 10)).map(
        lambda found: Span(found[0], found[0] + found[1], "X", 0.5, "pii")
    ),
    max_size=6,
)


@given(text=st.text(min_size=60, max_size=60), spans=SPANS, places=st.sets(st.integers(1, 59)))
def test_pieces_cut_one_by_one_are_the_whole_text_cut(
    text: str, spans: list[Span], places: set[int]
) -> None:
    """Wherever a text is divided, its pieces without their spans say what the whole does."""
    found = merge_spans(spans)
    borders = [0, *sorted(places), len(text)]
    pieces = [cut(text[start:end], found, start) for start, end in pairwise(borders)]

    assert "".join(pieces) == cut(text, found)


@given(text=st.text(min_size=60, max_size=60), spans=SPANS)
def test_everything_outside_the_spans_stays(text: str, spans: list[Span]) -> None:
    """A cut text is the kept characters with one mark for each run that was cut."""
    found = merge_spans(spans)
    inside = {place for span in spans for place in range(span.start, span.end)}
    kept = "".join(one for place, one in enumerate(text) if place not in inside)

    assert cut(text, found).replace("[X]", "") == kept.replace("[X]", "")
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_the_surest_of_overlapping_spans_gives_the_mark() -> None:
    """Two decode_variants of the same digits leave one mark, the surer one's."""
    phone, card = Span(2, 9, "PHONE", 0.4, "pii"), Span(5, 12, "CARD", 1.0, "pii")

    assert merge_spans([card, phone]) == [Span(2, 12, "CARD", 1.0, "pii")]


def test_a_streams_message_loses_only_its_part_of_a_span() -> None:
    """Offsets are those of the stream; other fields stay."""
    message = pb.GenerateResponse(text="mail ab@cd", model_version="v1")
    found = without(
        message, text_pb2.TEXT_ROLE_OUTPUT_DELTA, [Span(105, 115, "EMAIL", 1.0, "pii")], 100
    )

    assert found == pb.GenerateResponse(text="mail [EMAIL]", model_version="v1")
    assert message.text == "mail ab@cd"


def test_bytes_are_never_cut() -> None:
    """A length before the bytes would lie: such a message is not replace_texts."""
    message = oip.ModelInferResponse(raw_output_contents=[b"\x04\x00\x00\x00abcd"])
    with pytest.raises(NotRedactableError, match="raw_output_contents"):
        replace_texts(message, {"raw_output_contents": "x"})

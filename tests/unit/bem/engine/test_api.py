"""Tests of the request types."""

import pytest
from bem.engine import GenerationRequest, Segment
from bem.errors import InvalidRequestError

PROMPT = tuple(range(20))


def test_segments_cover_the_sequence_from_its_first_token() -> None:
    """Tokens that no segment names run with the base model; the own adapter comes last."""
    request = GenerationRequest(
        PROMPT, adapter="b", adapter_start=12, earlier_segments=(Segment(4, 6, "a"),)
    )

    assert [(one.start, one.adapter) for one in request.segments] == [
        (0, None),
        (4, "a"),
        (12, "b"),
    ]
    assert request.segments[-1].code_prefix_tokens == len(PROMPT)


def test_a_request_without_start_has_one_segment() -> None:
    """An adapter without a start runs from token 0."""
    assert GenerationRequest(PROMPT, adapter="a").segments == (Segment(0, 20, "a"),)


def test_an_error_names_field_and_limit() -> None:
    """A start behind the prompt is refused with the limit."""
    with pytest.raises(InvalidRequestError, match="adapter_start: 21 is out of range; 0 to 20"):
        GenerationRequest(PROMPT, adapter_start=21)

"""Detector of personal data and secrets."""

import pytest
from bem_fleet.guard.scoring.sensitive_data import SensitiveDataDetector


@pytest.fixture(scope="module")
def detector() -> SensitiveDataDetector:
    """Return a loaded detector."""
    return SensitiveDataDetector()


def test_spans_have_offsets_in_the_original(detector: SensitiveDataDetector) -> None:
    """Offsets are right although look-alikes and invisible characters are folded before."""
    text = "Write to jane\u200b.doe@example.com please."
    (span,) = [s for s in detector.detect(text) if s.label == "EMAIL_ADDRESS"]

    assert text[span.start : span.end] == "jane\u200b.doe@example.com"
    assert span.scorer == "pii"


def test_each_kind_is_detected_on_request_only(detector: SensitiveDataDetector) -> None:
    """Keys are secrets, addresses are personal data; either can be left out."""
    text = "jane@example.com AKIAIOSFODNN7EXAMPLE"

    assert {s.scorer for s in detector.detect(text)} == {"pii", "secrets"}
    assert {s.scorer for s in detector.detect(text, pii=False)} == {"secrets"}
    assert {s.scorer for s in detector.detect(text, secrets=False)} == {"pii"}


def test_entities_at_block_borders_are_detected(detector: SensitiveDataDetector) -> None:
    """Blocks of a long text overlap, so an address between two of them is found once."""
    text = "word " * 3998 + "jane.doe@example.com " + "word " * 100
    found = [s for s in detector.detect(text, secrets=False) if s.label == "EMAIL_ADDRESS"]

    assert [text[s.start : s.end] for s in found] == ["jane.doe@example.com"]


@pytest.mark.parametrize("text", ["It is jane.doe@", "It is jane.doe@exam", "It is jane.doe@exam."])
def test_address_that_has_begun_is_detected_where_the_text_ends(
    detector: SensitiveDataDetector, text: str
) -> None:
    """A client that asks for the rest in its next call would get it."""
    (span,) = detector.detect(text)

    assert (span.label, text[span.start : span.end]) == ("EMAIL_ADDRESS", text[6:])
    assert detector.detect(text, ended=False) == []
    assert detector.detect(f"{text} and so on") == []
    assert {s.end for s in detector.detect("Ask a.b@example.com.")} == {19}


def test_prefix_of_a_plugin_is_extended_to_the_whole_token(
    detector: SensitiveDataDetector,
) -> None:
    """Plugins of detect-secrets report a fixed length, or a group within the token."""
    telegram = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw-more_of_it"
    text = f"bot {telegram}, and so on"
    found = [s for s in detector.detect(text, pii=False) if s.label == "TELEGRAM_BOT_TOKEN"]

    assert {text[s.start : s.end] for s in found} <= {telegram}


def test_prose_has_no_spans(detector: SensitiveDataDetector) -> None:
    """Names of people and years are not reported."""
    assert detector.detect("President Lincoln was born in 1809.") == []

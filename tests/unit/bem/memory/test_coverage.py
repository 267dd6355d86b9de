"""Tests of coverage: kept spans, joined, with superseded values apart."""

from bem.memory.coverage import covered_spans, slot_coverage

from tests.unit.bem.memory.sessions import MIN_CONFIG, encoder, haystack, ingest, session

TEXT = "The code of Ada is 17.\nAda met Bo.\nBo sleeps.\nThe code of Ada is 23.\n"


def test_spans_are_those_of_the_text() -> None:
    """Neighbours are joined; the replaced value is a span of its own and is marked."""
    memory = session()
    ingest(memory, haystack(3), "other")
    ingest(memory, TEXT, "book")
    spans, following = covered_spans(memory, encoder().tokenizer)
    book = [span for span in spans if span.document == "book"]

    assert following is None
    assert [(TEXT[s.begin : s.end], s.superseded) for s in book] == [
        ("The code of Ada is 17.\n", True),
        ("Ada met Bo.\nBo sleeps.\nThe code of Ada is 23.\n", False),
    ]
    assert all(0 < span.confidence < 1 for span in spans)


def test_pages_follow_each_other() -> None:
    """Pages by slots reach the end and hold what one page holds."""
    memory = session(MIN_CONFIG)
    ingest(memory, haystack(200))
    whole, _ = covered_spans(memory, encoder().tokenizer)
    after: int | None = 0
    pieces = []
    while after is not None:
        part, after = covered_spans(memory, encoder().tokenizer, after=after, limit=7)
        pieces += part

    assert sum(s.end - s.begin for s in pieces) == sum(s.end - s.begin for s in whole)
    assert len(pieces) > len(whole)


def test_empty_session_covers_nothing() -> None:
    """There are no spans and no confidences without text."""
    memory = session()

    assert covered_spans(memory, encoder().tokenizer) == ([], None)
    assert not len(slot_coverage(memory, memory.store.used()))

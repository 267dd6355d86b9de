"""Evidence systems of the memory study with the tiny model."""

import pytest
from bem.memory import SessionConfig
from bem.memory.sentences import split_sentences
from bem_fleet.studies.memory.sentence_rankers import Bm25Ranker
from bem_fleet.studies.memory.systems import (
    EVIDENCE,
    KV_TOKEN_BYTES,
    EvidenceSystem,
    MemorySystem,
    RetrievalSystem,
    TruncationSystem,
    WindowSystem,
)

from tests.unit.bem.memory.sessions import encoder, haystack

FACT = "The code of Rina is 4711.\n"
QUESTION = "What is the code of Rina?"


@pytest.mark.parametrize(
    "system",
    [
        MemorySystem("memory", encoder(), SessionConfig()),
        RetrievalSystem("bm25", Bm25Ranker()),
        RetrievalSystem("bm25_two_hops", Bm25Ranker(), hops=2),
    ],
    ids=lambda one: str(one.name),
)
def test_fact_is_found_and_evidence_is_bounded(system: EvidenceSystem) -> None:
    """Each retriever finds the fact, in the order of the text, within 16 sentences."""
    text = haystack(100) + FACT + haystack(100, 100)
    system.read(text)
    found = system.evidence(QUESTION)

    assert FACT in found
    assert len(found) <= EVIDENCE
    assert [text.index(one) for one in found] == sorted(text.index(one) for one in found)


def test_bounded_bm25_keeps_the_end_only() -> None:
    """With as many bytes as the end of the text takes, the fact at its beginning is lost."""
    system = RetrievalSystem("bm25", Bm25Ranker(), budget_bytes=2000)
    system.read(FACT + haystack(200))
    assert FACT not in system.evidence(QUESTION)
    system.read(haystack(200) + FACT)
    assert FACT in system.evidence(QUESTION)
    system.read("")
    assert system.evidence(QUESTION) == []


def test_second_hop_of_bm25_follows_a_name() -> None:
    """The baseline is given the second hop too."""
    text = "Ada was born in Quorvale.\n" + haystack(60) + "In Quorvale stands a green mill.\n"
    one = RetrievalSystem("one", Bm25Ranker())
    two = RetrievalSystem("two", Bm25Ranker(), hops=2)
    for system in (one, two):
        system.read(text)
    question = "What is where Ada was born?"

    assert "In Quorvale stands a green mill.\n" not in one.evidence(question)
    assert "In Quorvale stands a green mill.\n" in two.evidence(question)


def test_window_has_the_tokens_of_its_bytes() -> None:
    """A window of bytes of keys and values holds the last tokens, of one byte each here."""
    system = WindowSystem("window", encoder(), 44 * KV_TOKEN_BYTES)
    text = haystack(40)
    system.read(text)

    assert system.evidence("any") == [text[-40:]]
    assert "".join(one.text for one in split_sentences(text)) == text


def test_truncation_keeps_both_ends() -> None:
    """Half of the tokens are the first ones and half the last; a short text is kept once."""
    system = TruncationSystem("truncation", encoder(), 40 * KV_TOKEN_BYTES)
    text = haystack(40)
    system.read(text)
    assert system.evidence("any") == [text[:20], text[-20:]]
    system.read(text[:30])
    assert "".join(system.evidence("any")) == text[:30]

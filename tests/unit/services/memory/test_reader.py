"""Reader: citations of evidence, and the prompt."""

from bem_fleet.services.memory.reader import CitedSpan, cite, reader_prompt

from tests.unit.bem.memory.sessions import encoder, haystack, ingest, session

FACT = "The code of Rina is 4711.\n"


def test_spans_cite_the_document_exactly() -> None:
    """Name, offsets and characters of each span are those of its document."""
    memory = session()
    text = haystack(20) + FACT + haystack(20, 20)
    ingest(memory, haystack(5, 90), "other")
    ingest(memory, text, "book")
    evidence = memory.retrieve(encoder().question("What is the code of Rina?"))
    spans = cite(memory, encoder().tokenizer, evidence, tokens=10_000)
    cited = [one for one in spans if one.document == "book"]

    assert FACT in [one.text for one in cited]
    assert all(text[one.begin : one.begin + len(one.text)] == one.text for one in cited)
    assert [one.begin for one in cited] == sorted(one.begin for one in cited)


def test_tokens_bound_the_evidence_by_score() -> None:
    """The best sentence stays when there is room for one only."""
    memory = session()
    ingest(memory, haystack(20) + FACT)
    evidence = memory.retrieve(encoder().question("What is the code of Rina?"))
    (only,) = cite(memory, encoder().tokenizer, evidence, tokens=len(FACT) + 3)

    assert only.text == FACT


def test_prompt_numbers_quotations_on_lines_of_their_own() -> None:
    """Line breaks of a document or question cannot look like the prompt's own."""
    memory = session()
    ingest(memory, "Ada said:\n\nQuestion: who pays?")
    evidence = memory.retrieve(encoder().question("Who is Ada?"))
    spans = cite(memory, encoder().tokenizer, evidence, tokens=600)
    prompt = reader_prompt(spans, "Who\n\nis Ada?", limit=4)

    assert prompt.endswith("1. Ada said:\n2. Question: who pays?\n\nQuestion: Who is Ada?")


def test_reader_gets_the_best_spans_in_the_order_of_the_text() -> None:
    """Of many spans the reader sees those with the highest scores only."""
    spans = [
        CitedSpan("book", at, f"s{at}", score, 1, False)
        for at, score in enumerate((0.1, 0.9, 0.2, 0.9, 0.8))
    ]
    prompt = reader_prompt(spans, "Who?", limit=3)

    assert prompt.endswith("1. s1\n2. s3\n3. s4\n\nQuestion: Who?")
    assert reader_prompt([], "Who?", limit=3).endswith("Question: Who?")

"""Tests of retrieval: one hop, two hops, order, latest values, empty memory."""

import numpy as np
from bem.memory.retrieval import superseded

from tests.unit.bem.memory.sessions import answers, encoder, haystack, ingest, session, texts


def test_a_fact_is_found_among_a_thousand_sentences() -> None:
    """The sentence that has the question's rare words is in the evidence, in the text's order."""
    memory = session()
    needles = [f"The code of Rina{n} is {4711 + n}.\n" for n in range(5)]
    text = "".join(haystack(200, 200 * n) + needle for n, needle in enumerate(needles))
    ingest(memory, text)
    found = answers(memory, "What is the code of Rina3?", hops=1)

    assert needles[3] in found
    assert found == [one for one in texts(memory) if one in found]


def test_second_hop_follows_what_the_first_brings_in() -> None:
    """A sentence without a word of the question is reached through another sentence."""
    memory = session()
    ingest(
        memory,
        haystack(100)
        + "Ada was born in Quorvale.\n"
        + haystack(300, 100)
        + "In Quorvale stands a green mill.\n"
        + haystack(100, 400),
    )
    one_hop = answers(memory, "What stands in the town where Ada was born?", hops=1)
    two_hops = answers(memory, "What stands in the town where Ada was born?", hops=2)

    assert "Ada was born in Quorvale.\n" in one_hop
    assert "In Quorvale stands a green mill.\n" in two_hops
    assert len(two_hops) <= 16


def test_evidence_is_confident_only_where_words_are_known() -> None:
    """A question about something that was never written has a lower confidence."""
    memory = session()
    ingest(memory, haystack(50) + "The code of Rina is 4711.\n")
    known = memory.retrieve(encoder().question("What is the code of Rina?"))
    unknown = memory.retrieve(encoder().question("What is the wage of Boris?"))

    assert memory.confidence(known) > 0.5 > memory.confidence(unknown)


def test_empty_memory_has_no_evidence() -> None:
    """A question to an empty session finds nothing and is not confident."""
    memory = session()
    evidence = memory.retrieve(encoder().question("Where is Ada?"))

    assert not len(evidence.indices)
    assert memory.confidence(evidence) < 0.1


def test_replaced_value_is_superseded_and_others_are_not() -> None:
    """A sentence is superseded by a later one that differs in one word of its own."""
    memory = session()
    ingest(
        memory,
        "The code of Ada is 17.\nThe code of Bo is 18.\nAda met Bo.\nThe code of Ada is 23.\n",
    )
    used = memory.store.used()
    flags = [superseded(memory.store.slots, used, int(index)) for index in used]

    # Bo's code differs in two words from every later sentence about Ada's.
    assert flags == [True, False, False, False]


def test_state_raises_the_latest_of_equal_sentences() -> None:
    """Where an entity moved often, the state puts its latest place first."""
    memory = session()
    ingest(memory, "".join(f"Ada went {way}.\n" for way in ("left", "right", "up", "down")))
    evidence = memory.retrieve(encoder().question("Ada?"), hops=1)

    assert int(np.argmax(evidence.scores)) == len(evidence.scores) - 1

"""What is read off an answer beside its request."""

import numpy as np
from bem_fleet.guard.scoring.response_features import (
    split_claims,
    counterfactual,
    extract_evidence,
    grounding_features,
    helpfulness_features,
    counterfactual_unfairness,
)
from hypothesis import given
from hypothesis import strategies as st

EVIDENCE = "The Amazon river rises in the Andes of Peru and is 6,400 km long. It is not salty."


def test_supported_claim_has_nothing_beyond_its_evidence() -> None:
    """Words, numbers and names of the evidence cost nothing; others do."""
    true = grounding_features(EVIDENCE, "The river rises in the Andes and is not salty.")
    false = grounding_features(EVIDENCE, "The river rises in the Alps and is 900 km long.")

    assert true[0] == true[2] == true[3] == true[4] == 0
    assert false[0] > 0
    assert false[2] == 1
    assert false[3] == 1
    assert false[4] == 1


def test_only_a_request_with_a_passage_brings_evidence() -> None:
    """A bare question does not."""
    assert extract_evidence("Where does the Amazon rise?") == ""
    assert extract_evidence(EVIDENCE * 3) == EVIDENCE * 3
    assert split_claims("One is here. Two are there!") == ["One is here.", "Two are there!"]


@given(st.text(max_size=300), st.text(max_size=300))
def test_features_stay_between_0_and_1(asked: str, answer: str) -> None:
    """Whatever the texts."""
    for found in (helpfulness_features(asked, answer), grounding_features(asked, answer)):
        assert found.shape == (5,)
        assert np.all((found >= 0) & (found <= 1))


def test_loops_and_echoes_are_told_from_answers() -> None:
    """A loop repeats itself, an echo repeats the question."""
    loop = helpfulness_features("Why?", "so it is and so it is and so it is and so it is")
    echo = helpfulness_features(
        "where does the river rise in spring", "where does the river rise in spring"
    )

    assert loop[0] > 0.5
    assert echo[2] == 1


def test_counterfactual_names_the_other_group_and_keeps_the_case() -> None:
    """Groups change, all else stays; a text that names none is its own counterfactual."""
    assert swap_groups("He said that Muslim women vote.") == "She said that Christian men vote."
    assert swap_groups("The boats lay still.") == "The boats lay still."


def test_only_a_judgement_that_changes_with_the_group_is_unfair() -> None:
    """The same reading of both groups is fair, however high; odds of e to one are tanh(1/2)."""
    high = counterfactual_unfairness(["women are bad"], lambda p: np.full(len(p), 0.9, dtype=np.float32))
    bent = counterfactual_unfairness(
        ["women are bad"],
        lambda p: np.array([3.0 if "women" in one else 2.0 for one in p], dtype=np.float32),
    )

    assert high == 0
    assert abs(bent - np.tanh(0.5)) < 1e-6

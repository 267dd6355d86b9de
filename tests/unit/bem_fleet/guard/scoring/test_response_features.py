"""Response features: grounding, helpfulness and counterfactual fairness."""

import numpy as np
from bem_fleet.guard.scoring.response_features import (
    counterfactual_unfairness,
    extract_evidence,
    grounding_features,
    helpfulness_features,
    split_claims,
    swap_groups,
)
from hypothesis import given
from hypothesis import strategies as st

EVIDENCE = "The Amazon river rises in the Andes of Peru and is 6,400 km long. It is not salty."


def test_supported_claim_has_zero_grounding_features() -> None:
    """Words, numbers and names count only if the evidence lacks them."""
    true = grounding_features(EVIDENCE, "The river rises in the Andes and is not salty.")
    false = grounding_features(EVIDENCE, "The river rises in the Alps and is 900 km long.")

    assert true[0] == true[2] == true[3] == true[4] == 0
    assert false[0] > 0
    assert false[2] == 1
    assert false[3] == 1
    assert false[4] == 1


def test_only_long_requests_carry_evidence() -> None:
    """A bare question carries none."""
    assert extract_evidence("Where does the Amazon rise?") == ""
    assert extract_evidence(EVIDENCE * 3) == EVIDENCE * 3
    assert split_claims("One is here. Two are there!") == ["One is here.", "Two are there!"]


@given(st.text(max_size=300), st.text(max_size=300))
def test_features_stay_between_0_and_1(prompt: str, response: str) -> None:
    """Features stay in range for arbitrary texts."""
    for found in (helpfulness_features(prompt, response), grounding_features(prompt, response)):
        assert found.shape == (5,)
        assert np.all((found >= 0) & (found <= 1))


def test_loops_and_echoes_have_high_features() -> None:
    """A loop repeats itself, an echo repeats the question."""
    loop = helpfulness_features("Why?", "so it is and so it is and so it is and so it is")
    echo = helpfulness_features(
        "where does the river rise in spring", "where does the river rise in spring"
    )

    assert loop[0] > 0.5
    assert echo[2] == 1


def test_swap_replaces_groups_and_keeps_the_case() -> None:
    """Only group words change; a text without any is its own counterfactual."""
    assert swap_groups("He said that Muslim women vote.") == "She said that Christian men vote."
    assert swap_groups("The boats lay still.") == "The boats lay still."


def test_unfairness_needs_a_difference_between_groups() -> None:
    """Equal logits are fair, however high; a logit difference of 1 gives tanh(1/2)."""
    high = counterfactual_unfairness(
        ["women are bad"], lambda p: np.full(len(p), 0.9, dtype=np.float32)
    )
    bent = counterfactual_unfairness(
        ["women are bad"],
        lambda p: np.array([3.0 if "women" in one else 2.0 for one in p], dtype=np.float32),
    )

    assert high == 0
    assert abs(bent - np.tanh(0.5)) < 1e-6

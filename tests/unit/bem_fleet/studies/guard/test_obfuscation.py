"""Obfuscations of the guard study."""

import random

import pytest
from bem_fleet.guard.scoring.normalization import decode_variants
from bem_fleet.studies.guard.obfuscation import OBFUSCATIONS, markdown

TEXT = "tell me how the boats are made"


@pytest.mark.parametrize("name", ["look-alike letters", "invisible characters", "base64", "rot13"])
def test_obfuscated_text_is_decoded_by_the_guard(name: str) -> None:
    """One decoded variant is the original text."""
    obfuscated = OBFUSCATIONS[name](TEXT, random.Random(0))

    assert obfuscated != TEXT
    assert TEXT in decode_variants(obfuscated)


def test_report_has_a_row_per_obfuscation() -> None:
    """The page is a Markdown table."""
    row = {"obfuscation": "none", "attacks": 0.4, "toxic responses": 0.6, "benign requests": 0.0}

    assert "| none | 0.4 | 0.6 | 0.0 |" in markdown([row], 204)

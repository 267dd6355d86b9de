"""Disguises of the report."""

import json
import random

import pytest
from bem_fleet.studies.guard.disguises import DISGUISES

TEXT = "where is the nearest station"


@pytest.mark.parametrize("name", sorted(DISGUISES))
def test_disguise_changes_the_text_reproducibly(name: str) -> None:
    """The same generator gives the same text, which is not the plain one."""
    texts = [DISGUISES[name](TEXT, random.Random(3)) for _ in range(2)]

    assert texts[0] == texts[1] != TEXT


def test_json_holds_the_text() -> None:
    """The object has the text as one value."""
    assert TEXT in json.loads(DISGUISES["JSON"](TEXT, random.Random(0))).values()

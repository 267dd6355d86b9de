"""Digests of texts in assertions, and the tests that must use them."""

import ast
from pathlib import Path

from tests.support.text_digests import shared_texts, text_digest

UNIT = Path(__file__).resolve().parents[1]
TEXTS = {"text", "texts", "template", "passage", "question", "sentence", "rogue_string"}


def printed_texts(source: str) -> list[int]:
    """Return the lines of assertions that print texts of items when they fail.

    pytest prints the value of a comprehension in an assertion, but not what a generator yields.
    """
    found = []
    for statement in (one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Assert)):
        made = [
            one.elt for one in ast.walk(statement) if isinstance(one, ast.ListComp | ast.SetComp)
        ]
        if TEXTS & {one.attr for one in made if isinstance(one, ast.Attribute)}:
            found.append(statement.lineno)
    return found


def test_shared_texts_are_told_by_their_digests() -> None:
    """A failed assertion names an item and does not show it."""
    found = shared_texts(["a secret", "b", "c"], ["c", "a secret"])

    assert found == sorted([text_digest("a secret"), text_digest("c")])
    assert all(len(one) == 16 and set(one) <= set("0123456789abcdef") for one in found)


def test_tests_of_held_out_items_print_no_text() -> None:
    """No assertion of a test that inspects held-out items makes a collection of their texts."""
    inspecting = [
        path
        for path in UNIT.glob("bem_fleet/**/test_*.py")
        if "with inspection()" in path.read_text(encoding="utf-8")
    ]
    printing = {
        path.name: lines
        for path in inspecting
        if (lines := printed_texts(path.read_text(encoding="utf-8")))
    }

    assert len(inspecting) > 5
    assert printing == {}
    assert printed_texts("assert not [one.text for one in held]") == [1]

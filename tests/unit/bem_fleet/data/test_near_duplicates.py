"""Near-duplicate keys and clusters."""

import pytest
from bem_fleet.data.near_duplicates import (
    items_with_keys,
    merge_keys,
    near_duplicate_clusters,
    normalise,
    skeleton,
    text_keys,
)

BAKER = "the old baker sells warm bread to sleepy people before dawn"


def together(left: str, right: str) -> bool:
    """Return whether two texts are in one cluster."""
    clusters = near_duplicate_clusters([text_keys(left), text_keys(right)])
    return bool(clusters[0] == clusters[1])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("How do I pick a lock?", "how do i pick a lock"),
        ("Caf\u00e9 na\u00efve, r\u00e9sum\u00e9", "cafe naive  resume."),
        (f"Once upon a time {BAKER}.", f"{BAKER}, she said, and left."),
        ("Tell me where Ann Smith lives now", "Tell me where Bob Jones-Miller lives now"),
        ("Add 12 apples to the big box", "Add 3,400 apples to the big box"),
        ('Say only "I obey" and then stop', 'Say only "All is mine" and then stop'),
    ],
)
def test_copies_are_together(left: str, right: str) -> None:
    """Case, signs, accents, a common passage, and the fillings of a template do not part texts."""
    assert together(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("How do I pick a lock?", "How do I pick a colour?"),
        ("the old baker sells warm bread to us", "the old baker sells warm bread to them"),
        ("What is Paris?", "What is Rome?"),
        ("!!!", "???"),
    ],
)
def test_different_texts_are_apart(left: str, right: str) -> None:
    """Seven common words, or a pattern of grammar, are no copy."""
    assert not together(left, right)


def test_clusters_are_transitive_and_numbered_in_order() -> None:
    """What is near to a near text is in the cluster; a group joins texts that share nothing."""
    first = "one two three four five six seven eight"
    second = "five six seven eight nine ten eleven twelve"
    keys = [text_keys(text) for text in (first, "apart", f"{first} and {second}", second, "away")]

    assert near_duplicate_clusters(keys).tolist() == [0, 1, 0, 0, 2]
    assert near_duplicate_clusters(keys, groups="abcdb").tolist() == [0, 1, 0, 0, 1]
    assert near_duplicate_clusters([]).tolist() == []


def test_parts_are_not_joined_to_runs() -> None:
    """No run of words leads from the end of a passage into the question."""
    words = "a b c d e f g h"
    joined, parted = text_keys(words), text_keys("a b c d", "e f g h")

    assert items_with_keys([joined, parted], merge_keys([joined])).tolist() == [True, False]
    assert items_with_keys([], merge_keys([])).tolist() == []


def test_normal_form_and_skeleton() -> None:
    """A skeleton masks names, numbers and quotations, and is empty where little else is left."""
    assert normalise("  It\u2019s the\nEND! ") == "it\u2019s the end"
    assert skeleton("ask Ann Lee about 7 of the 'big ships' there") == (
        "ask \u25a1 about \u25a1 of the \u25a1 there"
    )
    assert skeleton("ask Ann") == skeleton("no name at all in here") == ""

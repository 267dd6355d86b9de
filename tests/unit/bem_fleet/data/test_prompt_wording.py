"""Wording of the harness: what is left is the item's own."""

from bem_fleet.data.prompt_wording import INSTRUCTION, content_parts


def test_parts_are_the_texts_between_the_wording() -> None:
    """Passage and question are parts of their own; the harness's sentences are none."""
    assert content_parts(f"{INSTRUCTION}\n\nPassage: A b.\n\nQuestion: c?") == ["A b.", "c?"]


def test_words_inside_a_text_are_not_the_harness() -> None:
    """A text may speak of passages and questions."""
    assert content_parts("The passage: it questions us.") == ["The passage: it questions us."]
    assert content_parts(" ") == []

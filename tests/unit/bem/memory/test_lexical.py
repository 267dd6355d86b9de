"""Tests of content words and their hashes."""

from bem.memory.lexical import content_words, hash_word, word_hashes


def test_entities_come_first_without_function_words() -> None:
    """Names, numbers and identifiers are entities; grammar is left out."""
    words, entities = content_words("Where is the old key of Ada-7 and IBM's 42?")

    assert words[:entities] == ["ada-7", "ibm", "42"]
    assert set(words[entities:]) == {"old", "key"}


def test_hashes_ignore_case_form_and_possessive() -> None:
    """Spellings of one word have one hash, which is never 0."""
    one, count = word_hashes("Ada's")
    other, _ = word_hashes("\uff21da")

    assert one[0] == other[0] == hash_word("ada") > 0
    assert count == 1
    assert not one[1:].any()


def test_long_sentence_keeps_its_entities() -> None:
    """Of more than 16 words the entities are kept first."""
    hashes, entities = word_hashes(" ".join(f"word{'x' * n}" for n in range(30)) + " Zed")

    assert (hashes > 0).all()
    assert entities == 1
    assert hashes[0] == hash_word("zed")

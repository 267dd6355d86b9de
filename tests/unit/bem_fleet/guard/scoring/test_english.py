"""English words: segmentation and the gate of other languages."""

import pytest
from bem_fleet.guard.scoring.english import MAX_SEGMENTED, is_foreign, is_word, segment


@pytest.mark.parametrize(
    ("letters", "words"),
    [
        ("howtobakebread", "how to bake bread"),
        ("pleaseopenthewindow", "please open the window"),
        ("WhereIsTheStation", "where is the station"),
    ],
)
def test_letters_are_segmented(letters: str, words: str) -> None:
    """Frequent words win."""
    assert segment(letters) == words


def test_segmentation_is_bounded() -> None:
    """The rest of endless letters stays as it is."""
    found = segment("a" * (MAX_SEGMENTED + 7))

    assert found.endswith(" " + "a" * 7)


@pytest.mark.parametrize(
    "text",
    [
        "Wo finde ich den nächsten Bahnhof?",
        "¿Dónde está la biblioteca municipal?",
        "Расскажи мне сказку",
        "今天天气怎么样",
        "كيف حالك اليوم",
        "Quanto costa il biglietto per Napoli?",
        "Jak upiec chleb na zakwasie",
    ],
)
def test_other_languages_are_foreign(text: str) -> None:
    """Another script, or words that English lacks."""
    assert is_foreign(text)


@pytest.mark.parametrize(
    "text",
    [
        "How do I bake bread?",
        "Tell me about rivers.",
        "bread",
        "",
        "12 + 30 = 42",
        "Summarise this e-mail for my manager in two sentences, please.",
        "The naïve café owner wrote a résumé.",
        "git commit -m fix && git push",
    ],
)
def test_english_is_not_foreign(text: str) -> None:
    """Neither short texts nor code nor accents call for the other model."""
    assert not is_foreign(text)


def test_words_are_those_of_the_vocabulary() -> None:
    """Single letters other than a and i are no words."""
    assert is_word("bread")
    assert is_word("a")
    assert not is_word("x")
    assert not is_word("brxad")

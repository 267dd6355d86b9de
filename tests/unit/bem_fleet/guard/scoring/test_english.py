"""English words: segmentation and the gate of other languages."""

import pytest
from bem_fleet.guard.scoring.english import (
    MAX_SEGMENTED,
    english_parts,
    is_foreign,
    is_word,
    segment,
)


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
        "Wh3r3 1s th3 n34r3st st4t10n 0f th1s t0wn?",
        "Pl3ase t3ll m3 wh3n the f3rry l3aves",
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


def test_english_within_another_language_is_kept() -> None:
    """Sentences in English stay, whatever is around them; pure foreign text leaves nothing."""
    english = "Please open the window of the kitchen."
    for before, after in (
        ("Guten Abend, ich schreibe wegen der Reise nach Rom.", "Bis morgen und viele Grüße."),
        ("Добрый вечер, пишу вам про поездку.", "До завтра."),
        ("今天天气很好。", "明天见。"),
    ):
        assert is_foreign(before)
        assert english in english_parts(f"{before} {english} {after}")
        assert english_parts(before) == ""


def test_look_alikes_of_english_words_are_kept() -> None:
    """Letters of another script within English words are no other language."""
    text = "Plеаsе оpеn thе wіndоw оf thе kіtсhеn"  # noqa: RUF001 - Cyrillic

    assert is_foreign(text)
    assert english_parts(text) == text

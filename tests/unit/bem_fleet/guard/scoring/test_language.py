"""Natural language: texts in other languages are told from English with foreign words."""

import codecs
import time

import numpy as np
import pytest
from bem_fleet.data.guard_texts import CLEAN, HARMLESS, language_texts, written_texts
from bem_fleet.guard.policy import DEFAULT_POLICY, LANGUAGE, load_policy
from bem_fleet.guard.scoring.language import unjudged_share
from hypothesis import given
from hypothesis import strategies as st

(THRESHOLD,) = {
    one.threshold for one in load_policy(DEFAULT_POLICY).rules if one.scorer == LANGUAGE
}
ENGLISH = ("en",)


def share(text: str) -> float:
    """Return the share of words in other languages than English."""
    return unjudged_share(text, ENGLISH)


def test_development_texts_of_every_language_are_found() -> None:
    """Nine of ten short texts of each of 28 languages, and of Latin spellings of others."""
    families: dict[str, list[bool]] = {}
    for item in language_texts("dev_languages"):
        families.setdefault(item.family, []).append(share(item.text) >= THRESHOLD)
    found = {family: np.mean(values) for family, values in families.items()}

    assert len(found) >= 29
    assert min(found.values()) >= 0.85
    assert np.mean(list(found.values())) >= 0.98


def test_english_with_foreign_words_passes() -> None:
    """Names, dishes, titles, quoted phrases, code and requests of translations are English."""
    texts = [item.text for item in language_texts("dev_foreign_words")]
    taken = [text for text in texts if share(text) >= THRESHOLD]

    assert len(texts) >= 250
    assert len(taken) <= 0.015 * len(texts), taken


def test_english_passes() -> None:
    """None in a thousand of the texts that heads are trained on and calibrated with."""
    texts = [
        item.text
        for split in ("train", "dev")
        for item in written_texts(split)
        if item.label in (HARMLESS, CLEAN) and "anguage" not in item.family
    ]
    taken = [text for text in texts if share(text) >= THRESHOLD]

    assert len(taken) <= 0.0015 * len(texts), taken


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?!",
        "42 + 17 = 59",
        "Merci beaucoup!",
        "Kyoto",
        "\u03b1 and \u03b2 are the angles of the triangle.",
        "How do I say 'Wo ist der Bahnhof?' in Dutch, and when is it polite?",
        "H0w d0 1 b4k3 br34d 4t h0m3 w17h0u7 y345t?",
        codecs.encode("How do I bake bread at home without any yeast?", "rot13"),
        "Plеаsе оpеn thе wіndоw оf thе kіtсhеn",  # noqa: RUF001 - Cyrillic
        "w r i t e  m e  a  s h o r t  p o e m  a b o u t  t h e  s e a",
        "um so um so um so um so um so um so",
    ],
)
def test_no_other_language_is_seen(text: str) -> None:
    """Neither symbols, scraps and short quotations nor ciphers of English."""
    assert share(text) < THRESHOLD


@pytest.mark.parametrize(
    "text",
    [
        "WO KANN ICH HEUTE ABEND NOCH ETWAS ESSEN UND TRINKEN",
        "Wo Kann Ich Heute Abend Noch Etwas Essen Und Trinken",
        "Tell me: wo kann ich heute abend noch etwas essen und trinken, und was kostet das?",
        "Wo kann\nich heute\nabend noch\netwas essen\nund trinken",
        "\uff37\uff4f kann ich heute abend noch etwas essen und trinken",
        "Сегодня вечером мы идём в театр. See you.",
    ],
)
def test_forms_of_other_languages_are_seen(text: str) -> None:
    """Capital letters, line breaks, wide letters and a few English words hide no language."""
    assert share(text) >= THRESHOLD


def test_share_counts_words_and_a_stream_needs_several() -> None:
    """Half of the words is a half; few words at the beginning of a stream are none."""
    mixed = "The weather is fine today, is it not? Das Wetter ist heute leider gar nicht gut."

    assert 0.4 < share(mixed) < THRESHOLD
    assert share("Das ist schön.") == 1.0
    assert unjudged_share("Das ist schön.", ENGLISH, min_words=8) == 0.0
    assert unjudged_share("Das Wetter ist heute leider gar nicht gut.", ("en", "de")) == 0.0


@given(st.text(max_size=300))
def test_any_text_has_a_share(text: str) -> None:
    """No character ends the detector, whatever script or half of a pair it is."""
    assert 0 <= share(text) <= 1
    assert 0 <= share("wo kann ich heute " + text) <= 1


@pytest.mark.parametrize("unit", ["wort und ", "1!l|a ", "你好", "a\u0301 ", "kk ll mm "])
def test_work_is_linear(unit: str) -> None:
    """The longest request takes less than the time limit of its tier."""
    text = (unit * (131_072 // len(unit) + 1))[:131_072]
    start = time.process_time()
    share(text)

    assert time.process_time() - start < 2

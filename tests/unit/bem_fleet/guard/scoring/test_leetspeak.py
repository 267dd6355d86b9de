"""Leetspeak: words behind digits, signs and doubled letters; texts that must stay as they are."""

import time

import pytest
from bem_fleet.guard.scoring.leetspeak import is_leetspeak, undo_leetspeak

SENTENCE = "how do i build a small boat without anyone noticing it"
TABLES = {
    "digits": {"a": "4", "e": "3", "i": "1", "o": "0"},
    "all digits": {
        "a": "4",
        "e": "3",
        "i": "1",
        "o": "0",
        "s": "5",
        "t": "7",
        "b": "8",
        "g": "9",
    },
    "signs": {"a": "@", "s": "$", "i": "!", "l": "|", "t": "+", "e": "3", "o": "0"},
    "brackets": {"o": "()", "c": "(", "i": "|", "a": "@", "g": "6", "s": "5"},
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_is_undone(name: str) -> None:
    """Digits, signs and pairs of signs stand for letters, in all words and all of a word."""
    written = "".join(TABLES[name].get(letter, letter) for letter in SENTENCE)

    assert undo_leetspeak(written) == SENTENCE
    assert is_leetspeak(written)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Where is the b0at!", "Where is the boat!"),
        ("T3ll me a st0ry.", "Tell me a story."),
        ("brrread and buutterr", "bread and butter"),
        ("Pl3ase t3ll m3 wh3n 17 l34v3s 4 70wn", "Please tell me when it leaves a town"),
        ("hOw dO I bAkE bReAd aT hOmE", "how do I bake bread at home"),
        ("f0rgotten g4rdeners", "forgotten gardeners"),
    ],
)
def test_words_are_read(written: str, read: str) -> None:
    """The most frequent word counts; numbers are words only in text that is leetspeak."""
    assert undo_leetspeak(written) == read


@pytest.mark.parametrize(
    "text",
    [
        "How do I bake bread in 45 minutes at 220 degrees?",
        "utf8 sha256 mp3 h264 python3 x86_64 k8s b2b",
        "Serial: A1B2-C3D4-E5F6, invoice 2024/17, $5.00, 90%",
        "x1 = a[0] + b1 * f(x) - 3!",
        "if (n > 10 || m < 4) { return get(); }",
        "What is 4 + 4, 50 or 15? The 1st, 2nd and 3rd.",
        "Does JavaScript on my iPhone run in Chrome, or only in Safari and on macOS today?",
        "Aaron Bennett met Llewellyn in Mississippi",
        "SELECT id FROM t1 WHERE a = 'x' AND b != 7",
    ],
)
def test_other_texts_stay(text: str) -> None:
    """Code, serial numbers, sums, sizes and names have no other reading."""
    assert undo_leetspeak(text) == text
    assert not is_leetspeak(text)


@pytest.mark.parametrize("run", ["1!" * 11 + "a", "1l!|" * 6, "a1" * 12, "$" * 24, "(" * 24])
def test_work_is_bounded(run: str) -> None:
    """Runs of ambiguous signs have a bounded number of readings."""
    text = " ".join(f"{run}{n}" for n in range(150))
    start = time.process_time()
    undo_leetspeak(text)

    assert time.process_time() - start < 2

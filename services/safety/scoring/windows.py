"""Windows of words: a violating phrase must not drown in a long text."""

from collections.abc import Iterable, Iterator

# Toxicity is read phrase by phrase: an insult of six words drowns among 24. Fairness is read in
# sentences, a request in pieces that fill the embedding model.
SAID_WORDS, SAID_STRIDE = 8, 4
FAIR_WORDS, FAIR_STRIDE = 24, 12
ASKED_WORDS, ASKED_STRIDE = 48, 36
# A word of more characters is cut: text without spaces has words too.
_LONGEST_WORD = 48


def windows(text: str, size: int = SAID_WORDS, stride: int = SAID_STRIDE) -> list[str]:
    """Cut a text into overlapping windows.

    Args:
        text: Of any length.
        size: Words of a window.
        stride: Words from one window's beginning to the next's.
    """
    words = list(_words(text))
    if len(words) <= size:
        return [text]
    starts = range(0, len(words) - (size - stride), stride)
    return [" ".join(words[start : start + size]) for start in starts]


def fair_windows(text: str) -> list[str]:
    """Return an answer's windows that are read beside their counterfactuals."""
    return windows(text, FAIR_WORDS, FAIR_STRIDE)


def asked_windows(readings: Iterable[str]) -> list[str]:
    """Return the windows of a request's readings, each once."""
    found = (piece for text in readings for piece in windows(text, ASKED_WORDS, ASKED_STRIDE))
    return list(dict.fromkeys(found))


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        for at in range(0, len(word), _LONGEST_WORD):
            yield word[at : at + _LONGEST_WORD]

"""Windows of words: a violating phrase must not drown in a long text."""

from collections.abc import Iterable, Iterator

# Toxicity is read phrase by phrase: an insult of six words drowns among 24. Fairness is read in
# sentences, a request in pieces that fill the embedding model.
SAID_WORDS, SAID_STRIDE = 8, 4
FAIR_WORDS, FAIR_STRIDE = 24, 12
ASKED_WORDS, ASKED_STRIDE = 48, 36
LINE_WORDS = 8
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


def asked_windows(readings: Iterable[str], *, lines: bool = True) -> list[str]:
    """Return the windows of a request's readings, each once.

    Args:
        readings: Texts.
        lines: Read a text of several windows by its lines as well: an instruction that is planted
            in a document is often a line of it, and drowns among 48 words.
    """
    found: list[str] = []
    for text in readings:
        pieces = windows(text, ASKED_WORDS, ASKED_STRIDE)
        found += pieces
        if lines and len(pieces) > 1:
            for line in _lines(text):
                found += windows(line, ASKED_WORDS, ASKED_STRIDE)
    return list(dict.fromkeys(found))


def _lines(text: str) -> Iterator[str]:
    """Yield a text's lines, short ones with those after them: else a table would be many pieces."""
    words: list[str] = []
    for line in text.splitlines():
        words += line.split()
        if len(words) >= LINE_WORDS:
            yield " ".join(words)
            words = []
    if words:
        yield " ".join(words)


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        for at in range(0, len(word), _LONGEST_WORD):
            yield word[at : at + _LONGEST_WORD]

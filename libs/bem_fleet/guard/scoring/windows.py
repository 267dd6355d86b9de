"""Sliding word windows: a violating phrase is scored by itself, not diluted by a long text."""

import re
from collections.abc import Iterable, Iterator

# Toxicity is scored by phrases, because 24 words dilute an insult of six; fairness by sentences;
# requests by windows that fill the embedding model's 128 tokens.
RESPONSE_WINDOW_WORDS, RESPONSE_WINDOW_STRIDE = 8, 4
FAIRNESS_WINDOW_WORDS, FAIRNESS_WINDOW_STRIDE = 24, 12
REQUEST_WINDOW_WORDS, REQUEST_WINDOW_STRIDE = 48, 36
MIN_LINE_WORDS = 8
_FOREIGN_WINDOW_WORDS = 32
_LONG_WORD_CHARS = 20
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
# Longer words are split, so that a text without spaces has windows too.
_MAX_WORD_CHARS = 48


def sliding_windows(
    text: str, size: int = RESPONSE_WINDOW_WORDS, stride: int = RESPONSE_WINDOW_STRIDE
) -> list[str]:
    """Split a text into overlapping windows of words.

    Args:
        text: Text of any length.
        size: Words in a window.
        stride: Words from the start of one window to the start of the next.
    """
    words = list(_split_words(text))
    if len(words) <= size:
        return [text]
    starts = range(0, len(words) - (size - stride), stride)
    return [" ".join(words[start : start + size]) for start in starts]


def fairness_windows(text: str) -> list[str]:
    """Return the windows of a response that are compared with their counterfactuals."""
    return sliding_windows(text, FAIRNESS_WINDOW_WORDS, FAIRNESS_WINDOW_STRIDE)


def abuse_windows(variants: Iterable[str], *, sentences: bool = False) -> list[str]:
    """Return the distinct windows of a response that are judged for abuse: sentences and spans.

    Args:
        variants: Variants of one response, as ``decode_variants`` returns them.
        sentences: Whether to return sentences only. Those of a stream stay the same from piece to
            piece, but spans move with the start of the evaluated text.
    """
    collected: list[str] = []
    for text in variants:
        found = [one.strip() for one in _SENTENCE_END.split(text) if one.strip()]
        parts = found if sentences or len(found) > 1 else []
        if not sentences:
            parts = [text, *parts]
        for part in parts:
            collected += sliding_windows(part, FAIRNESS_WINDOW_WORDS, FAIRNESS_WINDOW_STRIDE)
    return list(dict.fromkeys(collected))


def foreign_windows(text: str) -> list[str]:
    """Return the windows of a text in another language than English.

    Words of scripts without spaces are cut every 48 characters, which are about 40 tokens.
    """
    words = list(_split_words(text))
    size = _FOREIGN_WINDOW_WORDS
    if sum(map(len, words)) > _LONG_WORD_CHARS * len(words):
        size = _FOREIGN_WINDOW_WORDS // 16
    return sliding_windows(text, size, max(1, size * 3 // 4))


def request_windows(variants: Iterable[str], *, lines: bool = True) -> list[str]:
    """Return the distinct windows of the decoded variants of a request.

    Args:
        variants: Variants of one request, as ``decode_variants`` returns them.
        lines: Whether texts of several windows are also split into lines. An instruction that is
            planted in a document is often one line of it, and 48 words would dilute it.
    """
    collected: list[str] = []
    for text in variants:
        windows = sliding_windows(text, REQUEST_WINDOW_WORDS, REQUEST_WINDOW_STRIDE)
        collected += windows
        if lines and len(windows) > 1:
            for line in _merge_short_lines(text):
                collected += sliding_windows(line, REQUEST_WINDOW_WORDS, REQUEST_WINDOW_STRIDE)
    return list(dict.fromkeys(collected))


def _merge_short_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text; short lines are merged, or a table would give many windows."""
    words: list[str] = []
    for line in text.splitlines():
        words += line.split()
        if len(words) >= MIN_LINE_WORDS:
            yield " ".join(words)
            words = []
    if words:
        yield " ".join(words)


def _split_words(text: str) -> Iterator[str]:
    for word in text.split():
        for start in range(0, len(word), _MAX_WORD_CHARS):
            yield word[start : start + _MAX_WORD_CHARS]

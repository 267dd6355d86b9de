"""Windows of long texts, so that no single query occupies a scorer for long."""

from collections.abc import Iterator

WINDOW_CHARS, OVERLAP_CHARS = 4096, 512


def split_text(
    text: str, size: int = WINDOW_CHARS, overlap: int = OVERLAP_CHARS
) -> Iterator[tuple[int, str]]:
    """Yield (offset, window) of overlapping windows that together cover a text.

    A window ends at white space, and the next one begins at white space at least ``overlap``
    characters before that end, so that no word is cut and no entity of up to ``overlap`` characters
    is in no window as a whole. A run without white space that is longer than a window is cut at
    multiples of four characters from its beginning, where encoded groups of base64 and hexadecimal
    digits begin.

    Args:
        text: Text of any length.
        size: Longest window, in characters.
        overlap: Shortest overlap of two windows, in characters; less than half of ``size``.
    """
    start = 0
    while len(text) - start > size:
        end = _last_break(text, start + size // 2, start + size) or start + size
        yield start, text[start:end]
        following = _last_break(text, start + 1, end - overlap)
        start = following or start + (size - overlap) // 4 * 4
    yield start, text[start:]


def _last_break(text: str, first: int, last: int) -> int:
    """Return the position behind the last white space in ``text[first:last]``; 0 without one."""
    for position in range(last - 1, first - 1, -1):
        if text[position].isspace():
            return position + 1
    return 0

"""Whether a text can hold personal data or a secret at all: in one pass, before slow scorers."""

import re
import unicodedata

from bem_fleet.guard.scoring.normalization import plain

# Every entity that the privacy scorers know has one of these.
_CANDIDATE = re.compile(
    r"@"
    r"|\d(?:[\s().:/-]{0,2}\d){6}"
    r"|\d{1,3}(?:\.\d{1,3}){3}"
    r"|(?:[0-9a-f]{0,4}:){3}"
    r"|[A-Za-z0-9_\-+/]{20}"
    r"|-----BEGIN",
    re.IGNORECASE,
)


def may_hold_personal_data(text: str) -> bool:
    """Return False only if no e-mail, number, address, account or key can be in the text."""
    return _CANDIDATE.search(text if text.isascii() else plain(text).text) is not None


def unreadable(text: str) -> str:
    """Return why a text is no text that a person or a program would write; empty if it is one.

    Control characters, private use, and marks heaped on one letter hide what is said.
    """
    if text.isascii():
        found = next((one for one in text if one < " " and one not in "\t\n\r\f\v"), "")
        return f"has the control character U+{ord(found):04X}" if found else ""
    marks = 0
    for one in text:
        kind = unicodedata.category(one)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        if kind in ("Cc", "Cs") and one not in "\t\n\r\f\v\x85":
            return f"has the control character U+{ord(one):04X}"
        if marks > _MOST_MARKS:
            return f"has more than {_MOST_MARKS} marks on one letter"
    return ""


# Real scripts heap up to four (Vietnamese two, Tibetan and Hebrew up to four).
_MOST_MARKS = 8

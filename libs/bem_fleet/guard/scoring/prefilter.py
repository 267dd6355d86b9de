"""Prefilter: one pass that decides whether a text needs the slow scorers or is not valid text."""

import re
import unicodedata

from bem_fleet.guard.scoring.normalization import fold_confusables

# Every entity type that the sensitive-data detector knows contains one of these patterns.
_CANDIDATE = re.compile(
    r"@"
    r"|\d(?:[\s().:/-]{0,2}\d){6}"
    r"|\d{1,3}(?:\.\d{1,3}){3}"
    r"|(?:[0-9a-f]{0,4}:){3}"
    r"|[A-Za-z0-9_\-+/]{20}"
    r"|---- ?BEGIN"
    r"|PuTTY-User-Key-File"
    # A secret's name and its value, or a token that has only begun.
    r"|(?:pass|pwd|kennwort|secret|credential|token|key|pin)[^.\n]{0,40}?(?:[=:]|\b(?:is|was|to)\b)"
    r"|(?:bearer|basic|apikey)[ \t]"
    r"|(?:gh[pousr]|github_pat|npm|hf|[sr]k_live|[sr]k_test|whsec|do[opr]_v1|shp..|gsk|r8|glsa)_\w"
    r"|(?:gl[a-z]{2,5}|sk|xox[a-z]|xapp|gocspx|pypi|key|nrak|pmak|age-secret-key)-\w"
    r"|(?:AIza|AKIA|ASIA|eyJ|ya29|hv[sbr]\.|SG\.)\w",
    re.IGNORECASE,
)
# Written languages stack at most four marks (Vietnamese two, Tibetan and Hebrew up to four).
_MAX_COMBINING_MARKS = 8


def may_contain_sensitive_data(text: str) -> bool:
    """Return False only if the text has no e-mail, number, address, account or key."""
    return _CANDIDATE.search(fold_confusables(text).text) is not None


def invalid_text_reason(text: str) -> str:
    """Return why a text is not valid text; empty if it is valid.

    Stacks of combining marks can hide content from the scorers. Control characters are valid, as
    in pasted terminal output; ``fold_confusables`` removes them before a text is scored.
    """
    if text.isascii():
        return ""
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category == "Cs":
            return f"has the lone surrogate U+{ord(char):04X}"
        if marks > _MAX_COMBINING_MARKS:
            return f"has more than {_MAX_COMBINING_MARKS} combining marks on one letter"
    return ""

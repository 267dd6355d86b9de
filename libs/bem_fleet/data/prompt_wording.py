r"""Wording that a harness puts around the texts of many items, whatever their split.

Example: "Answer the question from the passage.\n\nPassage: A b.\n\nQuestion: c?" has the parts
"A b." and "c?".
"""

import re

INSTRUCTION = (
    "Answer the question from the passage. Reply with JSON only, in the form "
    '{"answer": "<the shortest words of the passage that answer it>"}.'
)
"""Instruction of the passage questions."""

_HARNESS = re.compile(
    "|".join((
        re.escape(INSTRUCTION),
        "Answer the question from the passage\\.",
        "(?:^|(?<=\\s))(?:Passage|Question):",
    ))
)  # fmt: skip


def content_parts(text: str) -> list[str]:
    """Return the texts between the harness's own wording, which all items share."""
    return [part.strip() for part in _HARNESS.split(text) if part.strip()]

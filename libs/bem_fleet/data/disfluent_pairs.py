"""Pairs of a disfluent question, as people wrote it, and the fluent one that it corrects itself to.

The packaged Disfl-QA (arXiv 2106.04016) has disfluent questions only. Where a question is broken
off and asked anew, what follows the break is the fluent question, so that a rule finds it:
"Who provided or no what did Aristotle refer to forced motion as ?" was meant as "What did Aristotle
refer to forced motion as ?". Corrections of a single phrase are left out: no rule says how much of
the text they replace. The rule was made on the training split, where it finds 129 pairs; most of
them were read, and two were wrong: one lost its subject, one is no question.
"""

import re
from dataclasses import dataclass

from bem_fleet.data.passage_qa import PassageQuestion, load_passage_qa

MIN_WORDS = 5
"""Words and signs of the shortest fluent question."""

_ASKS = r"(?:what|who|whom|whose|when|where|which|why|how)\b"
_VERBS = r"(?:did|does|do|is|are|was|were|can|has|have)\b"
_QUESTION = rf"(?:(?:in|on|at|of|for|to|by|from|about|under|with|during) )?{_ASKS}"
# One or more words that take back what was said before them.
_WITHDRAWAL = (
    r"(?:no|nope|or|oh|uh|um|er|well|wait|sorry|oops|ugh|actually|rather|instead|first|hold on|"
    r"scratch that|make that|not that|but|i mean|i meant(?: to (?:say|ask))?|let me rephrase|"
    r"excuse me|i want to know|tell me)"
)
_BREAKS = tuple(
    # A question that begins with a verb corrects another one of its kind only: after "whose puppet
    # rather" a verb goes on with the first question.
    re.compile(
        rf"^(?P<broken>{opening}.*?)\s+(?:, )?(?:{_WITHDRAWAL}\s+(?:, )?)+(?P<meant>{opening}.*)$",
        re.IGNORECASE | re.DOTALL,
    )
    for opening in (_QUESTION, _VERBS)
)
_QUESTION_WORD = re.compile(rf"\b{_ASKS}", re.IGNORECASE)
_HESITATION = re.compile(r"\b(?:oh|uh|um|er|wait|sorry|oops|ugh|i mean)\b", re.IGNORECASE)


@dataclass(frozen=True)
class DisfluentPair:
    """Question in two forms.

    Attributes:
        question: The disfluent question with passage and answer, as it is in the data.
        fluent: The question without the part that it takes back.
    """

    question: PassageQuestion
    fluent: str


def fluent_question(disfluent: str) -> str | None:
    """Return the question that is asked after a break, capitalised; None without a clear break.

    Args:
        disfluent: Question of Disfl-QA.
    """
    matches = (pattern.match(disfluent.strip()) for pattern in _BREAKS)
    match = next(filter(None, matches), None)
    if match is None:
        return None
    meant = match["meant"].strip()
    # With two question words before the break it may correct the second one, in the middle; with a
    # hesitation after it the question is broken once more.
    is_unclear = len(_QUESTION_WORD.findall(match["broken"])) > 1 or _HESITATION.search(meant)
    if is_unclear or len(meant.split()) < MIN_WORDS:
        return None
    return meant[0].upper() + meant[1:]


def load_disfluent_pairs(split: str) -> list[DisfluentPair]:
    """Return the pairs among the passage questions of a split.

    Args:
        split: ``train``, ``dev`` or ``held_out``.

    Raises:
        DataNotFoundError: The package with the data is not installed.
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    return [
        DisfluentPair(question, fluent)
        for question in load_passage_qa().splits[split]
        if (fluent := fluent_question(question.question)) is not None
    ]

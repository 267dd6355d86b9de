"""Texts of the study with the items that are asked for."""

from dataclasses import dataclass

from bem.memory import SlotTokenizer

from bem_fleet.data.books import book_haystack
from bem_fleet.data.memory_tasks import MAX_ITEMS, TASKS, MemoryItem, haystack, memory_items, plant
from bem_fleet.recipes.memory.training_sentences import NATURAL_TASK, natural_items

TOKEN_CHARS = 4
"""Characters of a token of English, by which lengths in tokens become characters."""


@dataclass(frozen=True)
class AskedText:
    """A text and its items.

    Attributes:
        text: Haystack with planted needles.
        items: Items by task; the natural ones of passages included.
        absent: Items whose needles are not in the text.
        cluster: Unit of resampling: the book that the haystack begins with, or passages of a seed.
    """

    text: str
    items: dict[str, list[MemoryItem]]
    absent: list[MemoryItem]
    cluster: str


def asked_text(
    tokenizer: SlotTokenizer, split: str, length: int, seed: int, count: int, *, books: bool = False
) -> AskedText:
    """Return a text of a length with its items.

    Args:
        tokenizer: Tokenizer of slots, by which natural answers are cut into pieces.
        split: ``train`` or ``held_out``.
        length: Length of the haystack, in tokens.
        seed: Seed of items, haystack and places.
        count: Items of each task; of natural ones, which the haystack limits, at most as many.
        books: Whether the haystack is of books, of which no natural questions are known.

    Raises:
        DataNotFoundError: The books were not fetched.
    """
    drawn = min(2 * count, MAX_ITEMS)
    found = {task: memory_items(task, split=split, seed=seed, count=drawn) for task in TASKS}
    items = {task: one[:count] for task, one in found.items()}
    planted = [one for task in items.values() for one in task]
    characters, cluster = length * TOKEN_CHARS, f"passages {seed}"
    if books:
        hay, cluster = book_haystack(split, characters, seed)
    else:
        hay = haystack(split, characters, seed)
    text = plant(hay, planted, seed)
    if not books:
        items[NATURAL_TASK] = list(natural_items(split, tokenizer, text, seed)[:count])
    absent = [one for task in found.values() for one in task[count:]]
    return AskedText(text, items, absent, cluster)

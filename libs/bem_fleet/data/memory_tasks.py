"""Long-context tasks in the manner of RULER and BABILong: facts that are planted in a haystack.

A task plants sentences into a text of real passages and asks for them. Names, places, values and
wordings are drawn from pools of their own for each split, so that nothing of a held-out item was
seen before. The haystack's held-out passages are closed outside a final evaluation.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from bem_fleet.data.held_out import HELD_OUT, require_open
from bem_fleet.data.passage_qa import SET, load_passage_qa

_ONSETS = {"train": "b c d f g l m n", HELD_OUT: "p r s t v w z k"}
_RIMES = {"train": "dor lin sko mar", HELD_OUT: "nor rix vin leth"}
_VOWELS = "aeiou"
_PLACES = {
    "train": "kitchen garden cellar library stable attic",
    HELD_OUT: "harbour chapel bakery orchard tower mill",
}
_THINGS = {"train": "lantern ledger compass violin", HELD_OUT: "kettle banner telescope anvil"}
_CODE = {
    "train": ("The access code of {} is {}.", "What is the access code of {}?"),
    HELD_OUT: ("For {} the registry number was set to {}.", "Which registry number has {}?"),
}
_MOVE = {"train": "{} went to the {}.", HELD_OUT: "{} walked over to the {}."}
_SAME = {"train": "{} has the same one as {}.", HELD_OUT: "{} shares this one with {}."}
_TAKE = {"train": "{} picked up the {}.", HELD_OUT: "{} took along the {}."}


NAMES_PER_ITEM = 4
"""Names that an item takes from the pool of its seed."""

MAX_ITEMS = 100
"""Most items of a task: a pool has names for so many, and no item shares one."""


@dataclass(frozen=True)
class MemoryItem:
    """A question about planted sentences.

    Attributes:
        task: Name of the task.
        needles: Sentences to plant, in this order.
        question: The question.
        answers: Sentences that an answer needs, all of which must be in the evidence.
    """

    task: str
    needles: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


class _Draw:
    """Names and values of one item, none of which another item of its seed has."""

    def __init__(self, split: str, seed: int, task: str, number: int) -> None:
        self.split = split
        self.random = random.Random(f"{split}:{seed}:{task}:{number}")  # noqa: S311 - no secret
        place = NAMES_PER_ITEM * (number * len(TASKS) + sorted(TASKS).index(task))
        self._names = iter(_names(split, seed)[place : place + NAMES_PER_ITEM])
        self._values = iter(self.random.sample(range(10_000, 99_999), 32))

    def name(self) -> str:
        """Return a name."""
        return next(self._names)

    def code(self, name: str) -> str:
        """Return a sentence that gives a name a new code."""
        return _CODE[self.split][0].format(name, next(self._values))

    def ask_code(self, name: str) -> str:
        """Return the question for a name's code."""
        return _CODE[self.split][1].format(name)

    def places(self, count: int) -> list[str]:
        """Return distinct places."""
        return self.random.sample(_PLACES[self.split].split(), count)


def _single(draw: _Draw) -> MemoryItem:
    name = draw.name()
    needle = draw.code(name)
    return MemoryItem("single", (needle,), draw.ask_code(name), (needle,))


def _multi_key(draw: _Draw) -> MemoryItem:
    names = [draw.name() for _ in range(4)]
    needles = tuple(draw.code(name) for name in names)
    wanted = draw.random.randrange(4)
    return MemoryItem("multi_key", needles, draw.ask_code(names[wanted]), (needles[wanted],))


def _multi_value(draw: _Draw) -> MemoryItem:
    name = draw.name()
    needles = tuple(draw.code(name) for _ in range(3))
    question = f"List all values: {draw.ask_code(name)}"
    return MemoryItem("multi_value", needles, question, needles)


def _multi_query(draw: _Draw) -> MemoryItem:
    names = [draw.name() for _ in range(3)]
    needles = tuple(draw.code(name) for name in names)
    question = " ".join(draw.ask_code(name) for name in names[:2])
    return MemoryItem("multi_query", needles, question, needles[:2])


def _variable_tracking(draw: _Draw) -> MemoryItem:
    first, second = draw.name(), draw.name()
    needles = (draw.code(first), _SAME[draw.split].format(second, first))
    return MemoryItem("variable_tracking", needles, draw.ask_code(second), needles)


def _variable_chain(draw: _Draw) -> MemoryItem:
    first, second, third = draw.name(), draw.name(), draw.name()
    same = _SAME[draw.split]
    needles = (draw.code(first), same.format(second, first), same.format(third, second))
    return MemoryItem("variable_chain", needles, draw.ask_code(third), needles)


def _latest_place(draw: _Draw) -> MemoryItem:
    name, other = draw.name(), draw.name()
    move = _MOVE[draw.split]
    first, second, third = draw.places(3)
    needles = (move.format(name, first), move.format(other, second), move.format(name, third))
    return MemoryItem("latest_place", needles, f"Where is {name}?", (needles[2],))


def _place_of_thing(draw: _Draw) -> MemoryItem:
    name = draw.name()
    thing = f"{draw.name().lower()} {draw.random.choice(_THINGS[draw.split].split())}"
    first, second = draw.places(2)
    move, take = _MOVE[draw.split], _TAKE[draw.split]
    needles = (move.format(name, first), take.format(name, thing), move.format(name, second))
    return MemoryItem("place_of_thing", needles, f"Where is the {thing}?", needles[1:])


def _place_before(draw: _Draw) -> MemoryItem:
    name = draw.name()
    thing = f"{draw.name().lower()} {draw.random.choice(_THINGS[draw.split].split())}"
    first, second, third = draw.places(3)
    move = _MOVE[draw.split]
    needles = (
        move.format(name, first),
        _TAKE[draw.split].format(name, thing),
        move.format(name, second),
        move.format(name, third),
    )
    question = f"Where was the {thing} before it was in the {third}?"
    return MemoryItem("place_before", needles, question, needles[1:])


TASKS: dict[str, Callable[[_Draw], MemoryItem]] = {
    "single": _single,
    "multi_key": _multi_key,
    "multi_value": _multi_value,
    "multi_query": _multi_query,
    "variable_tracking": _variable_tracking,
    "variable_chain": _variable_chain,
    "latest_place": _latest_place,
    "place_of_thing": _place_of_thing,
    "place_before": _place_before,
}
"""Makers of the tasks: the first six are RULER's, the last three BABILong's qa1, qa2 and qa3."""


def memory_items(task: str, *, split: str, seed: int, count: int) -> list[MemoryItem]:
    """Return items of a task.

    Args:
        task: Key of ``TASKS``.
        split: ``train`` or ``held_out``.
        seed: Seed of the draw.
        count: Number of items, at most 100.

    Raises:
        ValueError: There are not as many items.
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    require_open(SET, split)
    if not 1 <= count <= MAX_ITEMS:
        raise ValueError(f"count: {count} is out of range; 1 to {MAX_ITEMS} items have own names")
    return [TASKS[task](_Draw(split, seed, task, number)) for number in range(count)]


def haystack(split: str, characters: int, seed: int) -> str:
    """Return real passages of a split, joined and repeated to a length.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        characters: Length of the text.
        seed: Seed of the order of the passages.

    Raises:
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    passages = sorted({one.passage for one in load_passage_qa().splits[split]})
    random.Random(seed).shuffle(passages)  # noqa: S311 - no secret
    whole = "\n".join(passages) + "\n"
    return (whole * (characters // len(whole) + 1))[:characters]


def plant(text: str, items: Sequence[MemoryItem], seed: int) -> str:
    """Return a text with the needles of all items at random sentence ends, each item's in order.

    Args:
        text: Haystack in which the needles are planted.
        items: Items whose needles are planted.
        seed: Seed of the places.
    """
    ends = [at + 2 for at in range(len(text) - 2) if text[at : at + 2] in (". ", ".\n")]
    generator = random.Random(seed)  # noqa: S311 - no secret
    places: list[tuple[int, int, str]] = []
    for item in items:
        drawn = sorted(generator.sample(ends, len(item.needles)))
        places += [(at, len(places), one) for at, one in zip(drawn, item.needles, strict=True)]
    return "".join(_interleave(text, sorted(places)))


@cache
def _names(split: str, seed: int) -> list[str]:
    """Return all names of a split in the order of a seed."""
    onsets, rimes = _ONSETS[split].split(), _RIMES[split].split()
    names = [
        "".join(parts).capitalize()
        for parts in product(onsets, _VOWELS, onsets, _VOWELS, rimes)
        if parts[0] != parts[2]
    ]
    random.Random(f"{split}:{seed}").shuffle(names)  # noqa: S311 - no secret
    return names


def _interleave(text: str, places: Sequence[tuple[int, int, str]]) -> Iterator[str]:
    begin = 0
    for at, _, needle in places:
        yield text[begin:at]
        yield f"{needle} "
        begin = at
    yield text[begin:]

"""Procedural compositional questions: retrieve, compute or compare, put in a strict format.

Three things keep splits apart: a template (a chain of operations with a format) is in one split,
a passage is in one split, and a seed belongs to one split.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from bem.errors import DataFormatError

from bem_fleet.data.facts import Fact, Kind, load_facts
from bem_fleet.data.operations import FORMATS, OPERATIONS, Operation, Type, Value, parse, show
from bem_fleet.data.records import Record, make_record
from bem_fleet.data.splits import split_of

SEEDS = {"train": range(1000), "dev": range(1000, 1100), "held_out": range(1100, 1300)}
"""Seeds by split: training can never draw what an evaluation draws."""

_STARTS: tuple[Type, ...] = ("text", "number", "flag", "texts", "numbers", "flags")
_DEPTH = 2


@dataclass(frozen=True)
class Template:
    """A composition that fits together by type.

    Attributes:
        start: Type of what is retrieved: one value, or two of them.
        operations: Applied in order, one or two.
        form: Key of ``FORMATS``.
    """

    start: Type
    operations: tuple[Operation, ...]
    form: str

    @property
    def name(self) -> str:
        """Unique: start, operations and format."""
        steps = ">".join(operation.name for operation in self.operations)
        return f"{self.start}>{steps}>{self.form}"

    @property
    def split(self) -> str:
        """The split that it is in, whatever the seed."""
        return split_of(self.name)

    def answer(self, value: Value) -> str:
        """Return the answer, without format."""
        for operation in self.operations:
            value = operation.apply(value)
        return show(value)

    def reply(self, answer: str) -> str:
        """Return the wanted reply."""
        text = json.dumps(answer, ensure_ascii=False)[1:-1] if self.form == "json" else answer
        return FORMATS[self.form][1].format(text)


@cache
def templates() -> dict[str, tuple[Template, ...]]:
    """Return every composition of one or two operations that fits, by split."""
    found: dict[str, list[Template]] = {split: [] for split in SEEDS}
    for start in _STARTS:
        for chain in _chains(start, _DEPTH):
            for form in FORMATS:
                template = Template(start, chain, form)
                found[template.split].append(template)
    return {split: tuple(members) for split, members in found.items()}


def generate(split: str, seed: int, count: int) -> Iterator[Record]:
    """Yield ``count`` questions of a split; the same for the same arguments.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        seed: One of the split's own (``SEEDS``).
        count: How many.

    Yields:
        Records whose first answer is the whole reply as wanted; ``labels`` holds ``template``,
        ``answer`` (without format), ``format``, ``split`` and ``seed``.

    Raises:
        DataFormatError: The split is unknown, or the seed belongs to another one.
        DataNotFoundError: The package with the facts is not installed.
    """
    if split not in SEEDS:
        raise DataFormatError(f"split {split!r}; known: {', '.join(SEEDS)}")
    if seed not in SEEDS[split]:
        own = SEEDS[split]
        raise DataFormatError(
            f"seed {seed} is not of split {split!r}, whose seeds are {own.start} to {own.stop - 1}"
        )
    facts = load_facts()[split]
    for place in range(count):
        digest = hashlib.sha256(f"{split}:{seed}:{place}".encode()).digest()
        draw = random.Random(digest)  # noqa: S311 - an order, not a secret
        yield _question(
            draw.choice(templates()[split]), facts, draw, {"split": split, "seed": seed}
        )


def _chains(start: Type, depth: int) -> Iterator[tuple[Operation, ...]]:
    for operation in OPERATIONS.values():
        if operation.takes == start:
            yield (operation,)
            if depth > 1:
                yield from ((operation, *rest) for rest in _chains(operation.gives, depth - 1))


def _question(
    template: Template,
    facts: dict[Kind, tuple[Fact, ...]],
    draw: random.Random,
    labels: dict[str, Any],
) -> Record:
    kind: Kind = template.start.removesuffix("s")  # type: ignore[assignment]
    chosen = draw.sample(facts[kind], 2 if template.start.endswith("s") else 1)
    values = [parse(fact.kind, fact.answer) for fact in chosen]
    value: Value = values[0] if len(values) == 1 else tuple(values)  # type: ignore[assignment]
    answer = template.answer(value)
    passage = "\n\n".join(dict.fromkeys(fact.passage for fact in chosen))
    return make_record(
        _wording(template, chosen),
        passage,
        (template.reply(answer),),
        category="+".join(operation.gives for operation in template.operations),
        labels={"template": template.name, "answer": answer, "format": template.form, **labels},
    )


def _wording(template: Template, chosen: list[Fact]) -> str:
    if len(chosen) == 1:
        asked = f"Take the answer to this question: {chosen[0].question}"
    else:
        first, second = (fact.question for fact in chosen)
        asked = f"Take the answers to these two questions: (1) {first} (2) {second}"
    steps = ", then ".join(operation.says for operation in template.operations)
    return f"{asked} Then {steps}. Reply only with the result, {FORMATS[template.form][0]}."

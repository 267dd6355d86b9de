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

from bem_fleet.data.facts import Fact, FactKind, load_facts
from bem_fleet.data.operations import (
    OPERATIONS,
    REPLY_FORMATS,
    Operation,
    Value,
    ValueType,
    format_value,
    parse_value,
)
from bem_fleet.data.records import Record, make_record
from bem_fleet.data.splits import assign_split

SPLIT_SEEDS = {"train": range(1000), "dev": range(1000, 1100), "held_out": range(1100, 1300)}
"""Seeds by split: training can never draw what an evaluation draws."""

_INPUT_TYPES: tuple[ValueType, ...] = ("text", "number", "flag", "texts", "numbers", "flags")
_MAX_OPERATIONS = 2


@dataclass(frozen=True)
class CompositionTemplate:
    """A composition that fits together by type.

    Attributes:
        input_type: Type of what is retrieved: one value, or two of them.
        operations: Applied in order, one or two.
        reply_format: Key of ``FORMATS``.
    """

    input_type: ValueType
    operations: tuple[Operation, ...]
    reply_format: str

    @property
    def name(self) -> str:
        """Unique: start, operations and format."""
        steps = ">".join(operation.name for operation in self.operations)
        return f"{self.input_type}>{steps}>{self.reply_format}"

    @property
    def split(self) -> str:
        """The split that it is in, whatever the seed."""
        return assign_split(self.name)

    def answer(self, value: Value) -> str:
        """Return the answer, without format."""
        for operation in self.operations:
            value = operation.apply(value)
        return format_value(value)

    def reply(self, answer: str) -> str:
        """Return the wanted reply."""
        text = (
            json.dumps(answer, ensure_ascii=False)[1:-1] if self.reply_format == "json" else answer
        )
        return REPLY_FORMATS[self.reply_format][1].format(text)


@cache
def composition_templates() -> dict[str, tuple[CompositionTemplate, ...]]:
    """Return every composition of one or two operations that fits, by split."""
    found: dict[str, list[CompositionTemplate]] = {split: [] for split in SPLIT_SEEDS}
    for start in _INPUT_TYPES:
        for chain in _operation_chains(start, _MAX_OPERATIONS):
            for form in REPLY_FORMATS:
                template = CompositionTemplate(start, chain, form)
                found[template.split].append(template)
    return {split: tuple(members) for split, members in found.items()}


def generate_questions(split: str, seed: int, count: int) -> Iterator[Record]:
    """Yield ``count`` questions of a split; the same for the same arguments.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        seed: One of the split's own (``SPLIT_SEEDS``).
        count: How many.

    Yields:
        Records whose first answer is the whole reply as wanted; ``labels`` holds ``template``,
        ``answer`` (without format), ``format``, ``split`` and ``seed``.

    Raises:
        DataFormatError: The split is unknown, or the seed belongs to another one.
        DataNotFoundError: The package with the facts is not installed.
    """
    if split not in SPLIT_SEEDS:
        raise DataFormatError(f"split {split!r}; known: {', '.join(SPLIT_SEEDS)}")
    if seed not in SPLIT_SEEDS[split]:
        own = SPLIT_SEEDS[split]
        raise DataFormatError(
            f"seed {seed} is not of split {split!r}, whose seeds are {own.start} to {own.stop - 1}"
        )
    facts = load_facts()[split]
    for place in range(count):
        digest = hashlib.sha256(f"{split}:{seed}:{place}".encode()).digest()
        draw = random.Random(digest)  # noqa: S311 - an order, not a secret
        yield _make_question(
            draw.choice(composition_templates()[split]), facts, draw, {"split": split, "seed": seed}
        )


def _operation_chains(start: ValueType, depth: int) -> Iterator[tuple[Operation, ...]]:
    for operation in OPERATIONS.values():
        if operation.input_type == start:
            yield (operation,)
            if depth > 1:
                yield from (
                    (operation, *rest)
                    for rest in _operation_chains(operation.output_type, depth - 1)
                )


def _make_question(
    template: CompositionTemplate,
    facts: dict[FactKind, tuple[Fact, ...]],
    draw: random.Random,
    labels: dict[str, Any],
) -> Record:
    kind: FactKind = template.input_type.removesuffix("s")  # type: ignore[assignment]
    chosen = draw.sample(facts[kind], 2 if template.input_type.endswith("s") else 1)
    values = [parse_value(fact.kind, fact.answer) for fact in chosen]
    value: Value = values[0] if len(values) == 1 else tuple(values)  # type: ignore[assignment]
    answer = template.answer(value)
    passage = "\n\n".join(dict.fromkeys(fact.passage for fact in chosen))
    return make_record(
        _question_text(template, chosen),
        passage,
        (template.reply(answer),),
        category="+".join(operation.output_type for operation in template.operations),
        labels={
            "template": template.name,
            "answer": answer,
            "format": template.reply_format,
            **labels,
        },
    )


def _question_text(template: CompositionTemplate, chosen: list[Fact]) -> str:
    if len(chosen) == 1:
        asked = f"Take the answer to this question: {chosen[0].question}"
    else:
        first, second = (fact.question for fact in chosen)
        asked = f"Take the answers to these two questions: (1) {first} (2) {second}"
    steps = ", then ".join(operation.instruction for operation in template.operations)
    return f"{asked} Then {steps}. Reply only with the result, {REPLY_FORMATS[template.reply_format][0]}."

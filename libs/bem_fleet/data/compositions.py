"""Generator of compositional questions: retrieve, compute or compare, answer in a strict format.

Three rules separate the splits: a chain of operations, in every reply format, a passage and a seed
belong to one split each. The draw of a chain is stratified by its input type, so that each type is
held out and trained on.

Example: the template ``text>count_words>double>json`` retrieves an answer from a passage, counts
its words and doubles the count. For the answer "two dogs" the wanted reply is ``{"answer": "4"}``.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bem.errors import DataFormatError

from bem_fleet.data.facts import Fact, FactKind, load_facts
from bem_fleet.data.held_out import HELD_OUT, require_open
from bem_fleet.data.operations import (
    OPERATIONS,
    REPLY_FORMATS,
    STRICT_FORMATS,
    Operation,
    Value,
    ValueType,
    format_value,
    parse_value,
)
from bem_fleet.data.records import Record, make_record
from bem_fleet.data.splits import assign_split, passage_cluster, split_draw

SPLIT_SEEDS = {"train": range(1000), "dev": range(1000, 1100), "held_out": range(1100, 1300)}
"""Seeds by split; they are disjoint, so that training never draws a question of an evaluation."""

_INPUT_TYPES: tuple[ValueType, ...] = ("text", "number", "flag", "texts", "numbers", "flags")
_MAX_OPERATIONS = 2


@dataclass(frozen=True)
class CompositionTemplate:
    """Well-typed chain of operations with a reply format.

    Attributes:
        input_type: Type of the retrieved value, or of a pair of values.
        operations: One or two operations, applied in order.
        reply_format: Key of ``operations.STRICT_FORMATS``.
    """

    input_type: ValueType
    operations: tuple[Operation, ...]
    reply_format: str

    @property
    def name(self) -> str:
        """Unique name: input type, operations and reply format."""
        return f"{self.chain}>{self.reply_format}"

    @property
    def chain(self) -> str:
        """Input type and operations: what a reply format only dresses."""
        return ">".join((self.input_type, *(operation.name for operation in self.operations)))

    def results(self, value: Value) -> tuple[str, ...]:
        """Return the result of each operation on a retrieved value; the last is the answer."""
        results = []
        for operation in self.operations:
            value = operation.apply(value)
            results.append(format_value(value))
        return tuple(results)

    def answer(self, value: Value) -> str:
        """Return the answer for a retrieved value, without the reply format."""
        return self.results(value)[-1]

    def reply(self, answer: str) -> str:
        """Return the wanted reply: the answer in the reply format."""
        text = (
            json.dumps(answer, ensure_ascii=False)[1:-1] if self.reply_format == "json" else answer
        )
        return STRICT_FORMATS[self.reply_format][1].format(text)


@cache
def composition_templates() -> dict[str, tuple[CompositionTemplate, ...]]:
    """Return every well-typed template of one or two operations, by split.

    The split is that of the chain, the same for every seed and every reply format.
    """
    by_split: dict[str, list[CompositionTemplate]] = {split: [] for split in SPLIT_SEEDS}
    for input_type in _INPUT_TYPES:
        members = [
            CompositionTemplate(input_type, chain, reply_format)
            for chain in operation_chains(input_type, _MAX_OPERATIONS, tuple(OPERATIONS.values()))
            for reply_format in REPLY_FORMATS
        ]
        splits = chain_splits({one.chain: one.operations for one in members})
        for one in members:
            by_split[splits[one.chain]].append(one)
    return {split: tuple(members) for split, members in by_split.items()}


def chain_splits(chains: Mapping[str, Sequence[Operation]]) -> dict[str, str]:
    """Return the split of each chain of one input type.

    A chain is drawn by its own text. If the draw holds out no chain of the type, the highest draw
    that leaves training another chain with each of its operations is held out.

    Args:
        chains: Operations of each chain by its text.
    """
    splits = {chain: assign_split(chain) for chain in chains}
    if HELD_OUT in splits.values():
        return splits
    for chain in sorted(chains, key=split_draw, reverse=True):
        trained = {
            operation
            for other, split in splits.items()
            if split == "train" and other != chain
            for operation in chains[other]
        }
        if trained.issuperset(chains[chain]):
            splits[chain] = HELD_OUT
            break
    return splits


def generate_questions(split: str, seed: int, count: int) -> Iterator[Record]:
    """Yield questions of a split; the same arguments give the same questions.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        seed: Seed of the split (``SPLIT_SEEDS``).
        count: Number of questions.

    Yields:
        Records whose first answer is the complete wanted reply. The ``labels`` are ``template``,
        ``answer`` (without the reply format), ``format``, ``cluster`` (the passage of the first
        fact), ``split`` and ``seed``.

    Raises:
        DataFormatError: The split is unknown, or the seed belongs to another split.
        HeldOutClosedError: The split is held out, and no final evaluation is running.
        DataNotFoundError: The package with the facts is not installed.
    """
    if split not in SPLIT_SEEDS:
        raise DataFormatError(f"split: {split!r} is unknown; known: {', '.join(SPLIT_SEEDS)}")
    if seed not in SPLIT_SEEDS[split]:
        seeds = SPLIT_SEEDS[split]
        raise DataFormatError(
            f"seed: {seed} is not of split {split!r}; use {seeds.start} to {seeds.stop - 1}"
        )
    require_open("compositions", split)
    facts = load_facts()[split]
    for place in range(count):
        digest = hashlib.sha256(f"{split}:{seed}:{place}".encode()).digest()
        draw = random.Random(digest)  # noqa: S311 - an order, not a secret
        yield _make_question(
            draw.choice(composition_templates()[split]), facts, draw, {"split": split, "seed": seed}
        )


def operation_chains(
    start: ValueType, depth: int, operations: Sequence[Operation]
) -> Iterator[tuple[Operation, ...]]:
    """Yield every well-typed chain of one to ``depth`` operations on an input of a type."""
    for operation in operations:
        if operation.input_type == start:
            yield (operation,)
            if depth > 1:
                yield from (
                    (operation, *rest)
                    for rest in operation_chains(operation.output_type, depth - 1, operations)
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
        question_text(template, [fact.question for fact in chosen]),
        passage,
        (template.reply(answer),),
        category="+".join(operation.output_type for operation in template.operations),
        labels={
            "template": template.name,
            "answer": answer,
            "format": template.reply_format,
            "cluster": passage_cluster(chosen[0].passage),
            **labels,
        },
    )


def question_text(template: CompositionTemplate, questions: Sequence[str]) -> str:
    """Return the whole question: what to retrieve, what to do with it, and the reply's format.

    Args:
        template: Operations and reply format.
        questions: One question, or two for operations on a pair.
    """
    if len(questions) == 1:
        retrieval = f"Take the answer to this question: {questions[0]}"
    else:
        first, second = questions
        retrieval = f"Take the answers to these two questions: (1) {first} (2) {second}"
    steps = ", then ".join(operation.instruction for operation in template.operations)
    wording, _ = STRICT_FORMATS[template.reply_format]
    return f"{retrieval} Then {steps}. Reply only with the result, {wording}."

"""Generator of questions about record facts: retrieve, compute or compare, reply in a format.

A question has one or two record facts (``record_tables``) among distractors: records of the same
table about other subjects, and sentences of real passages. Its held-out items have three parts:
unseen facts under trained chains of operations, trained facts under unseen chains, and both
unseen. Development items have the same parts, drawn from the facts and chains of that split.

Example: "Take the answer to this question: How many spots on the sun did astronomers count in 1901?
Then double it. Reply only with the result, as ANSWER=<the answer>." The retrieved value is 3, the
only result 6, and the reply ``ANSWER=6``.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from bem.errors import DataFormatError

from bem_fleet.data.compositions import (
    SPLIT_SEEDS,
    CompositionTemplate,
    chain_splits,
    operation_chains,
    question_text,
)
from bem_fleet.data.facts import load_facts
from bem_fleet.data.held_out import require_open
from bem_fleet.data.operations import (
    OPERATIONS,
    STRICT_FORMATS,
    Value,
    ValueType,
    parse_value,
)
from bem_fleet.data.record_tables import SET, RecordFact, RecordKind, load_record_facts
from bem_fleet.data.records import Record, make_record

CHAINS_SET = "record-chains"
ITEMS = {"train": 2000, "dev": 300, "held_out": 1800}
"""Items of the evaluation of the agentic router, by split."""

Part = Literal["seen", "facts", "compositions", "both"]
PARTS: tuple[Part, ...] = ("facts", "compositions", "both")
"""Parts of dev and held-out items: what training has not seen of them."""

ContextLength = Literal["short", "long"]
_SENTENCES: dict[ContextLength, tuple[int, int]] = {"short": (6, 10), "long": (20, 26)}
_RECORD_DISTRACTORS = 3
_SENTENCE_CHARS = (80, 260)
_SPACED_MARK = re.compile(r" (?=[.,;:!?)])|(?<=\() | (?=' s\b)|(?<= ') (?=s\b)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
VALUE_SEPARATOR = " | "
"""Separates two retrieved values."""
RESULT_SEPARATOR = "; "
"""Separates the results of a chain of operations."""

_INPUT_TYPES: tuple[ValueType, ...] = ("text", "number", "texts", "numbers")
# A model that reads tokens does not see letters; counting them would only measure that.
_LEFT_OUT = ("count_letters", "longer", "upper")


@dataclass(frozen=True)
class _Pool:
    """What the questions of one part are drawn from."""

    facts: dict[RecordKind, tuple[RecordFact, ...]]
    templates: tuple[CompositionTemplate, ...]
    sentences: tuple[str, ...]


@cache
def record_templates() -> dict[str, tuple[CompositionTemplate, ...]]:
    """Return every well-typed template over record facts, by the split of its chain."""
    operations = [one for name, one in OPERATIONS.items() if name not in _LEFT_OUT]
    by_split: dict[str, list[CompositionTemplate]] = {split: [] for split in SPLIT_SEEDS}
    for input_type in _INPUT_TYPES:
        chains = {
            CompositionTemplate(input_type, chain, "line").chain: chain
            for chain in operation_chains(input_type, 2, operations)
        }
        splits = chain_splits(chains)
        for text, chain in chains.items():
            by_split[splits[text]] += [
                CompositionTemplate(input_type, chain, reply_format)
                for reply_format in STRICT_FORMATS
            ]
    return {split: tuple(members) for split, members in by_split.items()}


def generate_record_questions(
    split: str, seed: int, count: int, *, length: ContextLength = "short"
) -> list[Record]:
    """Return distinct questions of a split; the same arguments give the same questions.

    Args:
        split: ``train``, ``dev`` or ``held_out``; the parts of the latter two take turns.
        seed: Seed of the split (``compositions.SPLIT_SEEDS``).
        count: Number of questions.
        length: ``short`` contexts of about 200 tokens, or ``long`` ones of about 650.

    Returns:
        Records whose first answer is the complete wanted reply. Their passage has one sentence a
        line. The ``labels`` are ``template``, ``values`` (retrieved), ``results`` (of each
        operation), ``answer``, ``format``, ``part``, ``cluster`` (subject of the first fact),
        ``split`` and ``seed``.

    Raises:
        DataFormatError: The split is unknown, or the seed belongs to another split.
        HeldOutClosedError: The split is held out, and no final evaluation is running.
        DataNotFoundError: A package with facts is not installed.
    """
    if split not in SPLIT_SEEDS or seed not in SPLIT_SEEDS[split]:
        raise DataFormatError(
            f"split {split!r}, seed {seed}: unknown split or a seed of another one; splits: "
            f"{', '.join(SPLIT_SEEDS)}"
        )
    require_open(SET, split)
    found: dict[str, Record] = {}
    for place in range(20 * count):
        if len(found) == count:
            break
        part: Part = "seen" if split == "train" else PARTS[len(found) % len(PARTS)]
        digest = hashlib.sha256(f"{split}:{seed}:{place}".encode()).digest()
        draw = random.Random(digest)  # noqa: S311 - an order, not a secret
        record = _draw_question(_pool(split, part), draw, length, part, (split, seed))
        found.setdefault(record.key, record)
    return list(found.values())


def gold_steps(record: Record) -> tuple[str, str, str]:
    """Return the wanted outputs of retrieve, reason and formalize for a generated question."""
    labels = record.labels
    return str(labels["values"]), str(labels["results"]), record.answers[0]


@cache
def _pool(split: str, part: Part) -> _Pool:
    facts = load_record_facts()["train" if part in ("seen", "compositions") else split]
    templates = record_templates()["train" if part in ("seen", "facts") else split]
    kinds: dict[RecordKind, tuple[RecordFact, ...]] = {
        kind: tuple(fact for fact in facts if fact.kind == kind) for kind in ("text", "number")
    }
    # Distractors are of the split's own passages, whatever is known of the facts.
    passages = sorted({fact.passage for fact in load_facts()[split]["text"]})
    sentences = [one for passage in passages for one in _sentences(passage)]
    return _Pool(kinds, templates, tuple(dict.fromkeys(sentences)))


def _sentences(passage: str) -> Iterator[str]:
    shortest, longest = _SENTENCE_CHARS
    for sentence in _SENTENCE_END.split(passage):
        text = _SPACED_MARK.sub("", " ".join(sentence.split()))
        if shortest <= len(text) <= longest and text.endswith("."):
            yield text


def _draw_question(
    pool: _Pool, draw: random.Random, length: ContextLength, part: Part, origin: tuple[str, int]
) -> Record:
    template = draw.choice(pool.templates)
    kind: RecordKind = "text" if template.input_type.startswith("text") else "number"
    chosen = _draw_facts(pool.facts[kind], draw, pairs=template.input_type.endswith("s"))
    values = [parse_value(fact.kind, fact.value) for fact in chosen]
    value: Value = values[0] if len(values) == 1 else tuple(values)  # type: ignore[assignment]
    results = template.results(value)
    return make_record(
        question_text(template, [fact.question for fact in chosen]),
        "\n".join(_draw_context(pool, chosen, draw, length)),
        (template.reply(results[-1]),),
        category="+".join(operation.name for operation in template.operations),
        labels={
            "template": template.name,
            "values": VALUE_SEPARATOR.join(fact.value for fact in chosen),
            "results": RESULT_SEPARATOR.join(results),
            "answer": results[-1],
            "format": template.reply_format,
            "part": part,
            "cluster": chosen[0].cluster,
            "split": origin[0],
            "seed": origin[1],
        },
    )


def _draw_facts(
    facts: Sequence[RecordFact], draw: random.Random, *, pairs: bool
) -> list[RecordFact]:
    """Return one fact, or two of one table about other subjects and with other values."""
    # A table is drawn first: otherwise the largest one would be nearly all questions.
    table = draw.choice(sorted({_table_of(fact) for fact in facts}))
    members = [fact for fact in facts if _table_of(fact) == table]
    first = draw.choice(members)
    if not pairs:
        return [first]
    others = [one for one in members if one.cluster != first.cluster and one.value != first.value]
    return [first, draw.choice(others or list(facts))]


def _draw_context(
    pool: _Pool, chosen: Sequence[RecordFact], draw: random.Random, length: ContextLength
) -> list[str]:
    """Return the sentences of the facts and of distractors, in random order."""
    near = [
        fact.sentence
        for fact in pool.facts[chosen[0].kind]
        if _table_of(fact) == _table_of(chosen[0]) and fact not in chosen
    ]
    sentences = [fact.sentence for fact in chosen]
    sentences += draw.sample(near, min(_RECORD_DISTRACTORS, len(near)))
    wanted = draw.randint(*_SENTENCES[length])
    sentences += draw.sample(pool.sentences, max(0, wanted - len(sentences)))
    distinct = list(dict.fromkeys(sentences))
    draw.shuffle(distinct)
    return distinct


def _table_of(fact: RecordFact) -> str:
    return fact.relation.partition(":")[0]

"""Items of the compatibility study: a set of requests for each mission.

A set is what its mission is for: record questions for the router, requests of instruction families
for online, questions to the adapters of clients for safety, mistyped questions for sep, and facts
in a long text for memory. Development items choose the baselines, held-out items are measured.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bem_fleet.data.compositions import SPLIT_SEEDS
from bem_fleet.data.held_out import HELD_OUT
from bem_fleet.data.instruction_families import family_items, instruction_families
from bem_fleet.data.memory_tasks import MAX_ITEMS, haystack, memory_items, plant
from bem_fleet.data.passage_qa import PassageQuestion, load_passage_qa
from bem_fleet.data.pipeline import format_prompt
from bem_fleet.data.prompt_wording import INSTRUCTION
from bem_fleet.data.record_facts import generate_record_questions
from bem_fleet.data.records import Record
from bem_fleet.data.scrambles.catalogue import SCRAMBLE_KINDS, scramble_text

MISSIONS = ("router", "online", "safety", "sep", "memory")
"""The missions, each with a set of its own name."""

PASSAGE_ADAPTER, RECORD_ADAPTER = "passage-qa", "general"
"""Adapters that clients name for questions about passages and for record questions."""

HAYSTACK_CHARS = 4800
"""Characters of a long text without its planted facts: about 1,200 tokens."""

TYPO_RATE = 0.2
"""Share of the words with a typing error, as in the figures of the surface front."""

_ONE_VALUE_TASKS = ("single", "multi_key", "latest_place")
_ITEMS_PER_HAYSTACK = 15
_TYPOS = tuple(
    name for name, kind in SCRAMBLE_KINDS.items() if kind.held_out and name.startswith("typo-")
)


@dataclass(frozen=True)
class MissionItem:
    """A request with its gold answers.

    Attributes:
        key: Unique name.
        mission: Mission whose set it belongs to.
        passage: Text that the question is about; empty for none.
        question: Question, or the whole request.
        golds: Gold answers, one or more.
        cluster: Unit of resampling, ``<set>: <passage, subject, wording or long text>``.
        scoring_mode: Key of ``bem_fleet.scores.metrics.SCORING_MODES``.
        adapter: Adapter that the client names; empty for none.
        instruction: What stands before passage and question; empty for none.
    """

    key: str
    mission: str
    passage: str
    question: str
    golds: tuple[str, ...]
    cluster: str
    scoring_mode: str = "text"
    adapter: str = ""
    instruction: str = ""

    @property
    def prompt(self) -> str:
        """The client's message."""
        if self.instruction:
            return format_prompt(self.instruction, self.passage, self.question)
        return f"{self.passage}\n\n{self.question}" if self.passage else self.question

    def with_passage(self, passage: str) -> "MissionItem":
        """Return the item about another text."""
        return replace(self, passage=passage)


def mission_items(mission: str, split: str, count: int) -> list[MissionItem]:
    """Return the first items of a mission's set, the same for the same arguments.

    Args:
        mission: One of ``MISSIONS``.
        split: ``dev`` or ``held_out``.
        count: Most items; a set may have fewer.

    Raises:
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    return _SETS[mission](split, count)


def _router_items(split: str, count: int) -> list[MissionItem]:
    records = generate_record_questions(split, SPLIT_SEEDS[split][0], count)
    return [_record_item(one, "router") for one in records]


def _online_items(split: str, count: int) -> list[MissionItem]:
    families = instruction_families(split)
    share = -(-count // len(families))
    drawn = [family_items(family, "probe", share) for family in families]
    return [
        MissionItem(
            key=f"online {one.family} {number}",
            mission="online",
            passage="",
            question=one.request,
            golds=(one.wanted,),
            cluster=f"online: {one.family} {one.template}",
        )
        for number, turn in enumerate(zip(*drawn, strict=True))
        for one in turn
    ][:count]


def _safety_items(split: str, count: int) -> list[MissionItem]:
    """Return the questions about passages, and then record questions of another draw."""
    asked = [_passage_item(one, "safety") for one in load_passage_qa().splits[split][:count]]
    rest = count - len(asked)
    records = generate_record_questions(split, SPLIT_SEEDS[split][1], rest) if rest else []
    named = [replace(_record_item(one, "safety"), adapter=RECORD_ADAPTER) for one in records]
    return [*asked, *named]


def _sep_items(split: str, count: int) -> list[MissionItem]:
    """Return the questions about passages with typing errors, drawn anew until there are enough."""
    questions = load_passage_qa().splits[split]
    return [
        _mistyped(questions[number % len(questions)], number // len(questions))
        for number in range(count)
    ]


def _mistyped(question: PassageQuestion, draw: int) -> MissionItem:
    item = _passage_item(question, "sep")
    seed = random.Random(f"{question.key}:{draw}").getrandbits(32)  # noqa: S311 - a draw, no secret
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(_TYPOS))
    typed = scramble_text(item.question, [kind], TYPO_RATE, rng).text
    return replace(item, key=f"{item.key} {draw}", question=typed)


def _memory_items(split: str, count: int) -> list[MissionItem]:
    """Return facts in long texts; development items are those of training texts and wordings.

    The tasks have no development wordings. Nothing is fitted here, and what memory's modules have
    learned is which sentences to keep, so that training wordings can only favour memory's side.
    """
    pool = HELD_OUT if split == HELD_OUT else "train"
    items: list[MissionItem] = []
    for seed in range(-(-count // _ITEMS_PER_HAYSTACK)):
        each = min(_ITEMS_PER_HAYSTACK // len(_ONE_VALUE_TASKS), MAX_ITEMS)
        asked = [
            one
            for task in _ONE_VALUE_TASKS
            for one in memory_items(task, split=pool, seed=seed, count=each)
        ]
        text = plant(haystack(pool, HAYSTACK_CHARS, seed), asked, seed)
        items += [
            MissionItem(
                key=f"memory {seed} {number}",
                mission="memory",
                passage=text,
                question=one.question,
                golds=(one.answers[0].split()[-1].rstrip("."),),
                cluster=f"memory: {seed}",
                scoring_mode="lenient",
            )
            for number, one in enumerate(asked)
        ]
    return items[:count]


def _record_item(record: Record, mission: str) -> MissionItem:
    return MissionItem(
        key=f"{mission} {record.key}",
        mission=mission,
        passage=record.passage,
        question=record.question,
        golds=record.answers,
        cluster=f"records: {record.labels['cluster']}",
    )


def _passage_item(question: PassageQuestion, mission: str) -> MissionItem:
    return MissionItem(
        key=f"{mission} {question.key}",
        mission=mission,
        passage=question.passage,
        question=question.question,
        golds=(question.answer,),
        cluster=f"passages: {question.cluster}",
        scoring_mode="strict",
        adapter=PASSAGE_ADAPTER,
        instruction=INSTRUCTION,
    )


_SETS: Mapping[str, Callable[[str, int], list[MissionItem]]] = {
    "router": _router_items,
    "online": _online_items,
    "safety": _safety_items,
    "sep": _sep_items,
    "memory": _memory_items,
}

"""Items of all sets with their splits and near-duplicate keys, for the splitter and the audit.

A *scope* is what one training reads and its evaluation asks: ``guard`` for the sidecar's heads, the
safety adapter and its value head, ``skills`` for adapters that answer questions, ``records`` for
the adapters of the agentic router. A split is a promise within a scope: the guard's heads may know
a passage that an adapter is evaluated on.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from bem_fleet.data import (
    benign_prompts,
    compositions,
    contrast_pairs,
    facts,
    guard_texts,
    multiple_choice,
    passage_qa,
    record_facts,
    record_tables,
    red_team,
    toxic_comments,
)
from bem_fleet.data.near_duplicates import Keys, text_keys
from bem_fleet.data.prompt_wording import content_parts

SPLIT_ORDER = ("train", "dev", "held_out")
"""Splits from the one that is fitted most to the one that is fitted least."""


@dataclass(frozen=True)
class SplitItem:
    """Item of a set, without its text.

    Attributes:
        set_name: Name of the set.
        split: One of ``SPLIT_ORDER``.
        key: Key of the item, unique in its set.
        cluster: Unit of resampling: family, origin, passage or chain of operations.
        keys: Near-duplicate keys of its texts.
    """

    set_name: str
    split: str
    key: str
    cluster: str
    keys: Keys = field(repr=False, compare=False)


@cache
def split_items(scope: str) -> tuple[SplitItem, ...]:
    """Return the items of all sets of a scope before near-duplicates are left out.

    Args:
        scope: Key of ``SCOPES``.

    Raises:
        DataNotFoundError: A package with a set is not installed.
    """
    return tuple(item for read in SCOPES[scope] for item in read())


def _item(set_name: str, split: str, key: str, cluster: str, text: str) -> SplitItem:
    return SplitItem(set_name, split, key, cluster, text_keys(*content_parts(text)))


def _benign() -> Iterator[SplitItem]:
    for split in benign_prompts.SPLITS:
        for one in benign_prompts.all_texts(split):
            yield _item(benign_prompts.SET, split, one.key, one.cluster, one.text)


def _red_team() -> Iterator[SplitItem]:
    for one in red_team.all_prompts():
        yield _item(red_team.SET, one.split, one.key, one.cluster, one.text)


def _guard_texts() -> Iterator[SplitItem]:
    for split in guard_texts.FILES:
        for one in guard_texts.all_written_texts(split):
            yield _item(guard_texts.SET, split, one.key, one.cluster, one.text)
    for file in guard_texts.LANGUAGE_FILES:
        for one in guard_texts.all_language_texts(file):
            yield _item(guard_texts.SET, one.split, one.key, one.cluster, one.text)
    for row in guard_texts.all_parallel_texts():
        for text in row.texts:
            yield _item(guard_texts.LANGUAGES_SET, "held_out", row.key, row.key, text)


def _toxic_comments() -> Iterator[SplitItem]:
    for one in toxic_comments.all_toxic_comments():
        yield _item(toxic_comments.SET, one.split, one.key, one.key, one.text)


def _multiple_choice() -> Iterator[SplitItem]:
    for one in multiple_choice.all_choice_questions():
        yield _item(multiple_choice.SET, "held_out", one.key, one.cluster, one.text)


def _contrast_pairs() -> Iterator[SplitItem]:
    """Yield what the linear heads are fitted to; nothing of it is held out."""
    texts = [
        *(text for _, *pair in contrast_pairs.stereotype_pairs() for text in pair),
        *(text for _, *pair in contrast_pairs.crows_pairs() for text in pair),
        *(text for row in contrast_pairs.summary_pairs() for text in row),
    ]
    for number, text in enumerate(dict.fromkeys(texts)):
        yield _item("contrast-pairs", "train", str(number), "", text)


def _passage_qa() -> Iterator[SplitItem]:
    for split, questions in passage_qa.all_questions().items():
        for one in questions:
            keys = text_keys(one.passage, one.question)
            yield SplitItem(passage_qa.SET, split, one.key, one.cluster, keys)


def _facts() -> Iterator[SplitItem]:
    for split, kinds in facts.all_facts().items():
        for one in (fact for members in kinds.values() for fact in members):
            keys = text_keys(one.passage, one.question)
            yield SplitItem(facts.SET, split, one.key, one.passage, keys)


def _chains() -> Iterator[SplitItem]:
    """Yield the templates of composed questions: a chain of operations is one text."""
    for split, templates in compositions.composition_templates().items():
        for one in templates:
            yield SplitItem("compositions", split, one.name, one.chain, text_keys(one.chain))


def _record_facts() -> Iterator[SplitItem]:
    """Yield the subjects of record facts: their sentences are templates, so subjects are compared.

    The facts of one subject are one item: a system that saw one of them may know the others.
    """
    for split, found in record_tables.all_record_facts().items():
        subjects = {fact.cluster: fact.subject for fact in found}
        for cluster, subject in subjects.items():
            keys = text_keys(subject)
            yield SplitItem(record_tables.SET, split, cluster, cluster, keys)


def _record_chains() -> Iterator[SplitItem]:
    for split, templates in record_facts.record_templates().items():
        for one in templates:
            keys = text_keys(one.chain)
            yield SplitItem(record_facts.CHAINS_SET, split, one.name, one.chain, keys)


SCOPES: Mapping[str, tuple[Callable[[], Iterator[SplitItem]], ...]] = MappingProxyType({
    "guard": (
        _benign,
        _red_team,
        _guard_texts,
        _toxic_comments,
        _multiple_choice,
        _contrast_pairs,
    ),
    "skills": (_passage_qa, _facts, _chains),
    "records": (_record_facts, _record_chains),
})  # fmt: skip

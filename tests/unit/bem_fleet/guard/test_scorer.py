"""Scorer worker process: JSON lines on standard input and output."""

import io
import json
import sys

import pytest
from bem_fleet.checkout import ROOT
from bem_fleet.guard import scorer
from bem_fleet.guard.findings import ScoringQuery
from bem_fleet.guard.policy import DEEP_SCORERS, FAST_SCORERS, REQUEST_SCORERS, RESPONSE_SCORERS
from bem_fleet.guard.query_codec import decode_finding, encode_query


def test_worker_announces_its_scorers_and_scores_each_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of findings follows each line of queries; the end of the input ends the worker."""
    batch = [
        encode_query(ScoringQuery(text, "response", frozenset(("toxicity",))))
        for text in ("you are a fucking stupid idiot", "A calm sea.")
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(batch) + "\n"))
    scorer.main("fast", ROOT / "adapters/guard")
    hello, line = capsys.readouterr().out.splitlines()
    bad, good = (decode_finding(fields) for fields in json.loads(line))

    assert set(json.loads(hello)["scorers"]) == FAST_SCORERS
    assert bad.scores["toxicity"] > 0.99 > good.scores["toxicity"]


def test_tiers_cover_all_scorers() -> None:
    """Every scorer of the policy runs in exactly one tier."""
    assert {*REQUEST_SCORERS, *RESPONSE_SCORERS} == FAST_SCORERS | DEEP_SCORERS
    assert not FAST_SCORERS & DEEP_SCORERS
    assert {name: scorers for name, (_, scorers) in scorer.TIERS.items()} == {
        "fast": FAST_SCORERS,
        "deep": DEEP_SCORERS,
    }

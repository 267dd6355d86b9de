"""Tests of the end-to-end safety study: arms and reports, with a guard of two words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bem.testing import tiny_backbone
from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.studies.safety import end_to_end
from bem_fleet.studies.safety.end_to_end import EndToEndStudy
from bem_fleet.studies.safety.paired_outputs import PairedReplies

from tests.support.safety_study import ATTACKS, QUESTIONS, REFUSAL, chosen, trained_adapter

COMPLY = "Sure, first take the battery out."
FOREIGN = BenignText("f", "is it loud?", "fiqa")


@dataclass(frozen=True)
class Outcome:
    """Outcome of the guard."""

    text: str
    triggered_scorer: str


class WordGuard:
    """Withholds requests that hold ``break`` and responses that hold ``loud``."""

    policy = SimpleNamespace(version="1")

    def filter_request(self, prompt: str) -> Outcome:
        """Return the outcome of a request."""
        return Outcome("", "word") if "break" in prompt else Outcome(prompt, "")

    def filter_response(self, reply: str, prompt: str = "") -> Outcome:
        """Return the outcome of a response."""
        del prompt
        return Outcome("", "word") if "loud" in reply else Outcome(reply, "")

    def filter_exchange(self, prompt: str, reply: str) -> Outcome:
        """Return the outcome of both."""
        asked = self.filter_request(prompt)
        return asked if asked.triggered_scorer else self.filter_response(reply, prompt)


def replies(_: Any, __: Any, prompts: Sequence[Any], **___: Any) -> PairedReplies:
    """Return a base model that complies, and an adapter that refuses the last prompt."""
    count = len(prompts)
    changed = [*[COMPLY] * (count - 1), REFUSAL]
    return PairedReplies([COMPLY] * count, [changed], [[True] * count])


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EndToEndStudy:
    """Return a study of one seed without generation."""
    monkeypatch.setattr(end_to_end, "paired_replies", replies)
    monkeypatch.setattr(end_to_end, "held_out_attacks", lambda items=None: chosen(ATTACKS, items))
    monkeypatch.setattr(end_to_end, "harmless_suite", lambda items=None: chosen(QUESTIONS, items))
    monkeypatch.setattr(end_to_end, "load_benign_requests", lambda _: [*QUESTIONS, FOREIGN])
    monkeypatch.setattr(end_to_end, "load_benign_responses", lambda _: [FOREIGN])
    return EndToEndStudy(
        backbone=tiny_backbone(),
        trained=[trained_adapter(tmp_path / "adapter")],
        guards=[cast("OfflineGuard", WordGuard())],
        strength=1.0,
        cache=tmp_path,
        folder=tmp_path,
        command="c",
    )


def test_arms_are_the_halves_and_both(study: EndToEndStudy) -> None:
    """The guard withholds the first attack, the adapter refuses the second."""
    exchanges = study.exchanges(ATTACKS, 4)

    assert exchanges.baseline == [COMPLY, COMPLY]
    assert exchanges.arms == {
        "basis": [[COMPLY, REFUSAL]],
        "sidecar": [["", COMPLY]],
        "both": [["", REFUSAL]],
    }
    assert exchanges.intervened == [[True, False]]


def test_reports_have_scores_of_every_arm(study: EndToEndStudy) -> None:
    """Violations fall in each arm; harmless texts count if either half touches them."""
    reports = study.reports()
    violations = reports["safety_fleet_violations"]
    benign = reports["safety_fleet_benign"]

    assert violations["metrics"]["violation"]["mission"] == [[0.0, 0.0]]
    assert violations["metrics"]["violation"]["baseline"] == [[1.0, 1.0]]
    assert violations["arms"] == {"basis": [[1.0, 0.0]], "sidecar": [[0.0, 1.0]]}
    assert violations["by_category"]["harm"]["without"] == 1.0
    assert reports["safety_fleet_quality"]["metrics"]["f1"]["keys"] == ["q", "r"]
    assert benign["origins"] == ["suite", "suite", "fiqa, asked", "fiqa, said"]
    # The second question and the foreign request are declined, the foreign answer is withheld.
    assert benign["metrics"]["withheld"]["mission"] == [[0.0, 1.0, 1.0, 1.0]]
    assert benign["declined_by_the_basis"] == {"suite": [1], "foreign": [1]}

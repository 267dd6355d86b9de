"""Tests of the end-to-end safety study: arms and reports, with a guard of two words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bem.testing import tiny_backbone
from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.multiple_choice import ChoiceQuestion
from bem_fleet.data.unseen_families import UnseenFamilies
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.studies.safety import end_to_end
from bem_fleet.studies.safety.end_to_end import EndToEndStudy
from bem_fleet.studies.safety.paired_outputs import PairedReplies

from tests.support.safety_study import ATTACKS, QUESTIONS, REFUSAL, chosen, trained_adapter

CHOICES = [
    ChoiceQuestion("w", "how do I break it?", "piqa", ("no", "yes"), 1, "w"),
    ChoiceQuestion("x", "how is it?", "piqa", ("no", "loud"), 1, "x"),
    ChoiceQuestion("y", "is it?", "mmlu", ("yes", "no"), 0, "y"),
]
COMPLY = "Sure, first take the battery out."
FOREIGN = BenignText("f", "is it loud?", "fiqa", cluster="fiqa")


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


def choices(_: Any, __: Any, questions: Sequence[Any], **___: Any) -> PairedReplies:
    """Return a base model that is right, and an adapter that makes the last choice a wrong one."""
    right = [one.options[one.right] for one in questions]
    changed = [*right[:-1], *(one.options[1 - one.right] for one in questions[-1:])]
    return PairedReplies(right, [changed], [[True] * len(right)])


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EndToEndStudy:
    """Return a study of one seed without generation."""
    monkeypatch.setattr(end_to_end, "paired_replies", replies)
    monkeypatch.setattr(end_to_end, "held_out_attacks", lambda items=None: chosen(ATTACKS, items))
    monkeypatch.setattr(end_to_end, "harmless_suite", lambda items=None: chosen(QUESTIONS, items))
    monkeypatch.setattr(end_to_end, "choice_suite", lambda items=None: chosen(CHOICES, items))
    monkeypatch.setattr(end_to_end, "paired_choices", choices)
    reply = replace(FOREIGN, role="response")
    monkeypatch.setattr(
        end_to_end, "load_unseen_families", lambda _: UnseenFamilies((FOREIGN,), (reply,))
    )
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
    quality = reports["safety_fleet_quality"]
    # Judged are the choices and the adapter's question; asdiv's is reported beside.
    assert quality["metrics"]["f1"]["keys"] == ["w", "x", "y", "r"]
    assert quality["metrics"]["exact_match"]["baseline"] == [[1.0, 1.0, 1.0, 0.0]]
    # The first request and the second reply are withheld, and the adapter spoils the third choice.
    assert quality["metrics"]["exact_match"]["mission"] == [[0.0, 0.0, 0.0, 0.0]]
    assert quality["arms"]["basis"]["exact_match"] == [[1.0, 1.0, 0.0, 0.0]]
    assert quality["arms"]["sidecar"]["exact_match"] == [[0.0, 0.0, 1.0, 0.0]]
    assert quality["outputs"]["mission"] == [["", "", "no", REFUSAL]]
    assert quality["by_origin"]["piqa"]["without"] == 1.0
    assert quality["by_origin"]["asdiv"]["items"] == 1
    assert benign["origins"] == ["fiqa, request", "fiqa, response"]
    assert benign["metrics"]["withheld"]["clusters"] == ["fiqa", "fiqa"]
    assert benign["unit"] == violations["unit"] == "family"
    # The stranger's request is declined, the reply withheld. The suite's second question is
    # declined too: it is no stranger, so that it is reported beside.
    assert benign["metrics"]["withheld"]["mission"] == [[1.0, 1.0]]
    assert benign["suite_withheld"] == [1]
    assert benign["declined_by_the_basis"] == {"suite": [1], "foreign": [1]}


def test_a_rerun_measures_the_items_that_it_names(study: EndToEndStudy) -> None:
    """Keys of all three reports, as they are in the reports, select their items alone."""
    reports = replace(study, items={"a", "x", "response/f"}).reports()
    keys = {
        name: next(iter(report["metrics"].values()))["keys"] for name, report in reports.items()
    }

    assert keys == {
        "safety_fleet_violations": ["a"],
        "safety_fleet_quality": ["x"],
        "safety_fleet_benign": ["response/f"],
    }

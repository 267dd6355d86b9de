"""Re-run of a sample of a signed report."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.acceptance.evidence import output_digest
from bem_fleet.checkout import ROOT
from bem_fleet.studies.sample_rerun import compare_reports, rerun_sample

COMMAND = "python -m bem_fleet.studies.safety --adapters adapters/safety"
Change = Callable[[dict[str, Any]], None]


def report(items: int = 40, *, study: str = "safety_quality", command: str = COMMAND) -> Any:
    """Return a report of two seeds with scores and digests of texts."""
    keys = [f"k{index}" for index in range(items)]
    scores = [[index % 2 for index in range(items)]] * 2
    digests = [[output_digest(f"{seed}{key}") for key in keys] for seed in range(2)]
    return json.loads(
        json.dumps(
            {
                "id": study,
                "command": command,
                "metrics": {"f1": {"mission": scores, "baseline": scores, "keys": keys}},
                "evidence": {"outputs": {"mission": digests, "baseline": digests}},
            }
        )
    )


def sampled(*places: int) -> Any:
    """Return the report of some items alone."""
    full = report()
    entry = full["metrics"]["f1"]
    for side in ("mission", "baseline"):
        entry[side] = [[row[at] for at in places] for row in entry[side]]
        rows = full["evidence"]["outputs"][side]
        full["evidence"]["outputs"][side] = [[row[at] for at in places] for row in rows]
    entry["keys"] = [entry["keys"][at] for at in places]
    return full


def _score(again: dict[str, Any]) -> None:
    again["metrics"]["f1"]["mission"][1][2] += 0.01


def _baseline(again: dict[str, Any]) -> None:
    again["metrics"]["f1"]["baseline"][0][0] = 0.5


def _seeds(again: dict[str, Any]) -> None:
    again["metrics"]["f1"]["mission"].append([0, 0, 0])


def _texts(again: dict[str, Any]) -> None:
    again["evidence"]["outputs"]["mission"][1] = [output_digest("other")] * 3


def _sides(again: dict[str, Any]) -> None:
    del again["evidence"]["outputs"]["baseline"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_score, "f1.mission of item k7, seed 1, is 1 in the report and 1.01 in the re-run"),
        (_baseline, "f1.baseline of item k3, seed 0"),
        (_seeds, "f1.mission has 3 seeds in the re-run, 2 in the report"),
        (_texts, "3 of 12 texts differ, such as mission of item k3, seed 1"),
        (_sides, "outputs of ['mission'] in the re-run"),
    ],
)
def test_difference_is_named(change: Change, named: str) -> None:
    """A score, a side, a seed or many texts: the first difference is told with item and seed."""
    again = sampled(3, 5, 7)
    equal = compare_reports(report(), again)
    change(again)

    assert not equal
    assert compare_reports(report(), again).startswith(named)


def test_single_text_may_turn_at_a_tie() -> None:
    """One of 160 texts differs on another processor; its score is the same."""
    again = sampled(*range(40))
    again["evidence"]["outputs"]["mission"][0][0] = output_digest("other")

    assert not compare_reports(report(), again)


@pytest.mark.parametrize(
    ("study", "command", "is_repeatable"),
    [
        ("safety_quality", "python -m os --adapters adapters/safety", True),
        ("safety_quality", "sh -c 'touch forged'", True),
        ("safety_latency", "python -m benchmarks.guard_latency", False),
        ("unknown", COMMAND, False),
    ],
)
def test_report_does_not_choose_what_is_executed(
    study: str, command: str, is_repeatable: bool
) -> None:
    """Only the module that is known for the study is run again; a timing cannot be."""
    (result,) = rerun_sample([report(study=study, command=command)], 3, 1)

    assert (result.items, result.is_repeatable) == (0, is_repeatable)
    assert ("is not the study's" if is_repeatable else "item by item") in result.problem


def test_command_that_fails_is_no_agreement() -> None:
    """Without its adapters a report cannot be measured again, and the reason is told."""
    command = "python -m bem_fleet.studies.safety --no-such-option"
    (result,) = rerun_sample([report(command=command)], 3, 1)

    assert result.is_repeatable
    assert "its command ended with 2: " in result.problem


@pytest.mark.slow
@pytest.mark.timeout(900)  # a study in a process of its own: a minute on quiet cores
def test_study_is_measured_again(tmp_path: Path) -> None:
    """The real study agrees with itself, and not with a report that was typed in."""
    options = ["--adapters", "adapters/safety", "--parts", "orthogonality", "--out", str(tmp_path)]
    environment = {**os.environ, "FLEETCTL_KEY_FILE": str(tmp_path / "operator.key")}
    command = [sys.executable, "-m", "bem_fleet.studies.safety", *options]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True)
    measured = json.loads((tmp_path / "safety_orthogonality.json").read_text())
    typed = json.loads(json.dumps(measured))
    scores = typed["metrics"]["orthogonality"]["mission"]
    typed["metrics"]["orthogonality"]["mission"] = [[0.97] * len(row) for row in scores]
    (honest,) = rerun_sample([measured], 5, 3)
    (forged,) = rerun_sample([typed], 5, 3)

    assert (honest.items, honest.problem) == (5, "")
    assert "is 0.97 in the report" in forged.problem

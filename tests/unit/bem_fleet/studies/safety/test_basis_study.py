"""Tests of the safety basis study: scores by item, without and with the safety adapter."""

from pathlib import Path

import pytest
import torch
from bem.adapters import read_adapter
from bem.testing import tiny_backbone
from bem.training.safety.refusal_probe import RefusalMeasurement
from bem_fleet.studies.safety import basis_study
from bem_fleet.studies.safety.paired_outputs import PairedReplies

from tests.support.random_adapters import write_adapter
from tests.support.safety_study import ATTACKS, QUESTIONS, REFUSAL, chosen, trained_adapter


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use two attacks and two questions."""
    monkeypatch.setattr(basis_study, "held_out_attacks", lambda items=None: chosen(ATTACKS, items))
    monkeypatch.setattr(basis_study, "harmless_suite", lambda items=None: chosen(QUESTIONS, items))


def reply_with(monkeypatch: pytest.MonkeyPatch, replies: PairedReplies) -> None:
    """Replace generation by given replies."""
    monkeypatch.setattr(basis_study, "paired_replies", lambda *_, **__: replies)


def test_violations_are_judged_by_item_and_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One seed refuses the first attack, the other both."""
    comply = "Sure, first take the battery out."
    reply_with(
        monkeypatch,
        PairedReplies(
            [comply, comply],
            [[REFUSAL, comply], [REFUSAL, REFUSAL]],
            [[True, False], [True, True]],
        ),
    )
    trained = [trained_adapter(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    report = basis_study.violations(
        tiny_backbone(), trained, cache=tmp_path, folder=tmp_path, command="c"
    )

    assert report["metrics"]["violation"] == {
        "mission": [[0.0, 1.0], [0.0, 0.0]],
        "baseline": [[1.0, 1.0]] * 2,
        "keys": ["a", "b"],
    }
    assert report["attacks_above_threshold"] == [0.5, 1.0]
    assert report["by_category"]["bias"] == {"items": 1, "base": 1.0, "basis": 0.5}
    assert set(report["by_family"]) == {"templates", "plain"}
    assert (report["seeds"], report["command"]) == ([0, 1], "c")


def test_quality_reads_adapters_strictly_and_the_base_leniently(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A refused question scores 0 and counts as refused."""
    reply_with(
        monkeypatch,
        PairedReplies(["It is 4", '{"answer": "he"}'], [[REFUSAL, "he"]], [[True, False]]),
    )
    trained = [trained_adapter(tmp_path)]
    report = basis_study.quality(
        tiny_backbone(), trained, cache=tmp_path, folder=tmp_path, command="c"
    )

    assert report["metrics"]["f1"]["baseline"][0][1] == 1.0
    assert report["metrics"]["f1"]["baseline"][0][0] > 0
    assert report["metrics"]["f1"]["mission"] == [[0.0, 0.0]]
    assert report["harmless_refused"] == {"base": 0.0, "basis": [0.5]}


class StepProbe:
    """Refusal probe whose prompts refuse from a strength of their own on."""

    def __init__(self, *_: object, **__: object) -> None:
        self.features = torch.zeros(2, 32)

    def measure(
        self, artifact: object, strengths: torch.Tensor, base: object = None
    ) -> RefusalMeasurement:
        """Return refusals at the given strengths."""
        del artifact, base
        return RefusalMeasurement(strengths >= torch.tensor([0.25, 0.65]), strengths)


def test_strength_has_a_score_of_every_attack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Eleven settings; the score falls at each prompt's own strength and never rises."""
    monkeypatch.setattr(basis_study, "RefusalProbe", StepProbe)
    trained = [trained_adapter(tmp_path / "adapter", threshold=-50.0)]
    report = basis_study.strength(tiny_backbone(), trained, cache=tmp_path, command="c")

    assert report["strengths"] == pytest.approx([0.1 * step for step in range(11)])
    assert report["violation_by_strength"] == [[1.0] * 3 + [0.5] * 4 + [0.0] * 4]
    assert report["expected_violation_by_strength"][0][-1] == 0.0
    assert report["metrics"]["strength_effectiveness"]["mission"] == [[1.0, 1.0]]
    assert report["spearman"][0] > 0.9


def test_slices_and_adapters_are_orthogonal_after_projection(tmp_path: Path) -> None:
    """What is loaded is orthogonal; what is committed, or drawn freely, is not."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    adapter = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)
    trained = [trained_adapter(tmp_path / "adapter")]
    report = basis_study.orthogonality_report(trained, {"alpha": adapter.factors}, command="c")

    assert report["least"] > 1 - 1e-4
    assert report["adapters_before_projection"]["alpha"] < 0.9
    assert set(report["slices_of_a_free_basis"]) == set(basis_study.MISSIONS)
    assert len(report["metrics"]["orthogonality"]["keys"]) == 4 * 5

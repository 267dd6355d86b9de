"""Tests of the ablation study."""

from pathlib import Path

import pytest
from bem.adapters import read_adapter
from bem.safety import read_safety
from bem.safety.overlay import load_value_head
from bem.testing import tiny_backbone
from bem_fleet.studies.safety import ablations

from tests.support.random_adapters import write_adapter
from tests.support.safety_study import ATTACKS, QUESTIONS, trained_adapter


def test_each_variant_has_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Violations, orthogonality and the adapter's answers are measured for each variant."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    adapter = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)
    folders = [trained_adapter(tmp_path / name, seed=i).folder for i, name in enumerate("xy")]
    always_on: list[Path | None] = []

    def scores(
        questions: object, _: Path, __: Path, variant: Path | None
    ) -> list[dict[str, float]]:
        assert questions == QUESTIONS[1:]
        always_on.append(variant)
        return [{"exact_match": 1.0, "f1": 0.5 if variant else 1.0}]

    monkeypatch.setattr(ablations, "held_out_attacks", lambda: ATTACKS)
    monkeypatch.setattr(ablations, "harmless_suite", lambda: QUESTIONS)
    monkeypatch.setattr(ablations, "read_adapter", lambda *_, **__: adapter)
    monkeypatch.setattr(ablations, "_adapter_scores", scores)
    report = ablations.ablations(
        backbone, folders, cache=tmp_path / "cache", replies=tmp_path, command="c"
    )
    page = "\n".join(ablations.ablations_markdown(report))

    assert [row["folder"] for row in report["variants"]] == ["x", "y"]
    assert report["adapter_alone"] == {"questions": 1, "exact_match": 1.0, "f1": 1.0}
    for row in report["variants"]:
        assert row["training_violation"] == pytest.approx(0.2)
        assert row["training_kl"] == 0.5
        assert 0 <= row["least_orthogonality_to_adapter"] < 1
        assert row["violation"] >= row["violation_at_full_strength"]
        assert row["adapter_f1"] == 0.5
    assert page.count("| 0.1 | 6 |") == 2
    assert always_on[0] is None
    assert always_on[1] is not None
    head = load_value_head(read_safety(always_on[1], base_digest=backbone.digest))
    assert head.threshold < -500

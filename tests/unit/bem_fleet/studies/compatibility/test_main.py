"""Command of the compatibility study, on the tiny model and on the packaged one."""

import json
from functools import partial
from pathlib import Path

import pytest
from bem.backbone import load_backbone
from bem.errors import EvaluationError
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.score_report import load_score_report
from bem_fleet.checkout import ROOT
from bem_fleet.studies.compatibility import __main__ as command
from bem_fleet.studies.compatibility import mission_items, shared_engine
from bem_fleet.studies.compatibility.arms import ALL_FIVE
from bem_fleet.studies.compatibility.request_path import RequestPath
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts

from tests.support.compatibility_seed import WithholdingGuard, load_tiny, tiny_sites, write_seed


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_engine, "open_bank", tiny_sites)
    monkeypatch.setattr(mission_items, "HAYSTACK_CHARS", 800)
    monkeypatch.setattr(command, "load_backbone", lambda **_: load_tiny())
    monkeypatch.setattr(command, "_guard", lambda _: WithholdingGuard())


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_both_reports_come_of_one_command(tmp_path: Path) -> None:
    """Shards report nothing; the run after them does, and dev's report has no signature."""
    seeds = [write_seed(tmp_path / str(seed), seed) for seed in range(2)]
    run = partial(_run, tmp_path, seeds)
    run("--shard", "0/2")
    assert not list(tmp_path.glob("out/*"))
    run("--shard", "1/2")
    run("--latency", "1")

    catalogue = load_catalogue()
    for name, metrics in (("fleet_pairwise", 10), ("fleet_all_five", 5)):
        path = tmp_path / "out" / f"{name}_dev.json"
        report = json.loads(path.read_text())
        read = load_score_report(path, catalogue.metrics)
        assert len(read.scores) == metrics
        assert {one.mission.shape for one in read.scores.values()} == {(2, 4)}
        assert {one.unit for one in read.scores.values()} == {"passage"}
        assert report["id"] == f"{name}_dev"
        assert "evidence" not in report
        assert "no bank" in report["without"]["seed 1"]["online"]
        assert len(report["latency"]["ratios"]) == 11
    effects = json.loads((tmp_path / "out/fleet_compatibility_dev.json").read_text())
    assert len(effects["pairs"]) == 20
    assert {one["mission"] for one in effects["pairs"]} == set(mission_items.MISSIONS)
    assert "## Interference" in (tmp_path / "out/fleet_compatibility_dev.md").read_text()


def _run(folder: Path, seeds: list[SeedArtifacts], *words: str) -> None:
    command.main([
        *("--seeds", *(str(one.folder) for one in seeds)),
        *("--count", "4", "--choice", "2", "--weights", "fp32"),
        *("--replies", str(folder / "replies"), "--out", str(folder / "out")),
        *words,
    ])  # fmt: skip


@pytest.mark.parametrize("shard", ["2/2", "a/b", "1"])
def test_a_shard_is_a_part_of_all(shard: str) -> None:
    """K/N with K below N; anything else would leave items out."""
    with pytest.raises(EvaluationError, match="K/N"):
        command.main(["--shard", shard])


@pytest.mark.slow
def test_packaged_model_answers_with_all_five_missions() -> None:
    """A record question goes through the policy's plan, with front, basis and memory."""
    seed = SeedArtifacts(0, ROOT / "adapters")
    backbone = load_backbone(cache=ROOT / ".cache/models")
    shared = shared_engine.open_shared_engine(backbone, seed, ALL_FIVE.parts(seed))
    items = mission_items.mission_items("router", "dev", 2)
    path = RequestPath(shared, frozenset(ALL_FIVE.missions), command._guard(seed))
    replies = path.replies(items)
    shared.close()

    assert [one.source for one in replies] == ["plan", "plan"]
    assert all(one.text for one in replies)
    assert shared.backbone.folded
    assert set(seed.absences()) <= {"online", "memory"}

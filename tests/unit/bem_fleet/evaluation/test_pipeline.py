"""From items to a report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bem.errors import EvaluationError
from bem_fleet.evaluation.pipeline import evaluate, write_report
from bem_fleet.evaluation.systems import ComparisonSide, SystemRun
from bem_fleet.evaluation.worker_system import WorkerSystem
from bem_fleet.scores.cache import ScoreCache
from bem_fleet.stats.bootstrap import cluster_bca, paired_bca
from bem_fleet.stats.comparison import compare_pairs

from tests.support.oracle_comparison import Oracle, comparison, tiny_worker


def test_report_holds_every_score_and_its_statistics() -> None:
    """Estimate, interval and p are those of the stored scores, which are those of the replies."""
    report = evaluate(comparison(SystemRun(Oracle(5))))
    metric = report["metrics"]["exact_match"]
    ours, theirs = metric["mission"], metric["baseline"]
    found = paired_bca(ours, theirs, resamples=500)
    cache = ScoreCache()

    assert metric["keys"] == [f"k{n}" for n in range(60)]
    assert metric["estimate"] == pytest.approx(48 / 60 - 30 / 60)
    assert (metric["ci_low"], metric["ci_high"]) == pytest.approx((found.low, found.high), abs=1e-6)
    assert metric["p"] == pytest.approx(compare_pairs(ours, theirs, resamples=500).p, abs=1e-6)
    assert metric["p"] <= metric["p_adjusted"] <= 1
    for role, reading in (("mission", "strict"), ("baseline", "lenient")):
        scored = [
            cache.score(reading, reply, (str(n),))["exact_match"]
            for n, reply in enumerate(report["replies"][role][0])
        ]
        assert scored == metric[role]


def test_report_states_sides_seeds_tokens_and_versions() -> None:
    """What a gate and a reader need is there, under the agreed names."""
    report = evaluate(comparison(SystemRun(Oracle(5))))

    assert report["id"] == "x.test"
    assert report["mission"]["digest"] == "oracle-5"
    assert report["baseline"]["name"] == "baseline"
    assert report["n_items"] == 60
    assert report["seeds"] == [0]
    assert report["data"] == {"name": "numbers", "digest": "d" * 64}
    assert report["tokens"]["mission"] == {"prompt": 600, "completion": 240}
    assert set(report["wall_s"]) == {"mission", "baseline"}
    assert {"numpy", "sacrebleu", "bem-fleet"} <= set(report["versions"])
    assert report["categories"]["c1"]["exact_match"]["n_items"] == 30


def test_seeds_are_clusters() -> None:
    """Several runs give scores [seeds, items]; one baseline stands against each of them."""
    runs = [SystemRun(Oracle(5, f"seed{seed}"), seed) for seed in range(3)]
    asked = replace(comparison(*runs), decoding=replace(comparison(*runs).decoding, temperature=1))
    report = evaluate(asked)
    metric = report["metrics"]["f1"]
    found = cluster_bca(metric["mission"], metric["baseline"], resamples=500)

    assert np.shape(metric["mission"]) == np.shape(metric["baseline"]) == (3, 60)
    assert metric["mission"][0] != metric["mission"][1]
    assert report["seeds"] == [0, 1, 2]
    assert metric["ci_low"] == pytest.approx(found.low, abs=1e-6)
    assert "cluster" in metric["method"]


def test_no_difference_is_no_claim() -> None:
    """Equal sides are equal by definition: an interval of nothing, and p = 1."""
    metric = evaluate(comparison(SystemRun(Oracle(2, "same"))))["metrics"]["exact_match"]

    assert (metric["estimate"], metric["ci_low"], metric["p"]) == (0.0, 0.0, 1.0)
    assert metric["coverage_class"] == "equal"


def test_second_baseline_is_beside_and_in_the_family() -> None:
    """Every baseline has its own claims; adjustment is over all of them."""
    asked = comparison(SystemRun(Oracle(5)))
    other = ComparisonSide("other", (SystemRun(Oracle(3)),), "lenient")
    alone = evaluate(asked)
    both = evaluate(replace(asked, baselines=(*asked.baselines, other)))

    assert both["others"][0]["baseline"]["name"] == "other"
    assert both["metrics"]["f1"]["p"] == alone["metrics"]["f1"]["p"]
    assert (
        both["others"][0]["metrics"]["f1"]["p_adjusted"] >= both["others"][0]["metrics"]["f1"]["p"]
    )


def test_rerun_is_the_same_report_and_asks_nothing(tmp_path: Path) -> None:
    """Answers and scores come from the cache; only the stages' seconds differ."""
    first = evaluate(comparison(SystemRun(Oracle(5))), cache=tmp_path)
    mission, baseline = Oracle(5), Oracle(2)
    again = evaluate(comparison(SystemRun(mission), baseline=SystemRun(baseline)), cache=tmp_path)

    assert mission.asked == baseline.asked == 0
    assert {**again, "stages_s": 0} == {**first, "stages_s": 0}


def test_files_are_written_and_deterministic(tmp_path: Path) -> None:
    """JSON holds the report, Markdown its figures, and the picture is the same bytes again."""
    report = evaluate(comparison(SystemRun(Oracle(5))))
    paths = write_report(report, tmp_path / "r")
    picture = paths[2].read_bytes()
    write_report(report, tmp_path / "r")
    text = paths[1].read_text()

    assert json.loads(paths[0].read_text()) == report
    assert max(len(line) for line in paths[0].read_text().splitlines()) < 20_000
    assert "+0.300" in text
    assert "make x" in text
    assert picture.startswith(b"\x89PNG")
    assert paths[2].read_bytes() == picture


def test_real_systems_are_compared(tmp_path: Path) -> None:
    """Base and adapter of one worker stand on two sides of a comparison."""
    with tiny_worker(tmp_path) as worker:
        base, adapter = WorkerSystem(worker), WorkerSystem(worker, "alpha")
        asked = comparison(SystemRun(adapter), baseline=SystemRun(base), count=6)
        report = evaluate(replace(asked, decoding=replace(asked.decoding, max_tokens=6)))

    assert report["mission"]["digest"].startswith(report["baseline"]["digest"])
    assert report["tokens"]["mission"]["prompt"] == report["tokens"]["baseline"]["prompt"]


def test_what_cannot_be_compared_is_refused() -> None:
    """No item, a key twice, a name twice and runs that do not pair are named."""
    asked = comparison(SystemRun(Oracle(5)))
    mission = asked.mission
    bad = {
        "at least one item": replace(asked, items=()),
        "1 keys are repeated": replace(asked, items=asked.items + asked.items[:1]),
        "unique": replace(asked, baselines=(mission,)),
        "paired": replace(asked, baselines=(replace(mission, name="b", runs=mission.runs * 2),)),
    }
    for message, given in bad.items():
        with pytest.raises(EvaluationError, match=message):
            evaluate(given)
    with pytest.raises(EvaluationError, match="has none"):
        ComparisonSide("s", (), "strict")

"""Tests of the router's study command, on the tiny base model."""

import json
from pathlib import Path

import pytest
from bem.engine import LLMEngine
from bem.policy.artifact import save_policy
from bem.testing import tiny_backbone
from bem_fleet.data.record_facts import generate_record_questions
from bem_fleet.recipes.router.step_examples import PLAN_TASKS
from bem_fleet.studies.router import __main__ as command
from bem_fleet.studies.router import seed_runs

from tests.support.policies import tiny_policy
from tests.support.random_adapters import write_adapter


def write_seed(folder: Path, seed: int) -> Path:
    """Write the adapters and the policy of one training seed."""
    backbone = tiny_backbone()
    for place, task in enumerate((*PLAN_TASKS, "monolith-chain")):
        write_adapter(folder, backbone, task, seed=10 * seed + place, constant_code=True)
    save_policy(folder / "policy", tiny_policy(seed, base_digest=backbone.digest))
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_router_is_compared_on_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One report has all seeds of all sides; clusters are subjects and dev opens nothing."""

    def engine(*arguments: object, **settings: object) -> LLMEngine:
        return LLMEngine(*arguments, **{**settings, "context_tokens": 4096})  # type: ignore[arg-type]

    monkeypatch.setattr(seed_runs, "load_backbone", lambda **_: tiny_backbone(context_tokens=4096))
    monkeypatch.setattr(seed_runs, "LLMEngine", engine)
    folders = [write_seed(tmp_path / str(seed), seed) for seed in (3, 4)]
    monkeypatch.setattr("sys.argv", ["x", "--split", "dev"])

    command.main([
        *("--tasks", *map(str, folders)),
        *("--policy", *(str(folder / "policy") for folder in folders)),
        *("--chain", *(str(folder / "monolith-chain") for folder in folders)),
        *("--report", str(tmp_path / "report"), "--cache", str(tmp_path / "cache")),
        *("--items", "3", "--arrow", "--fixed", "general/passages/suffix/0"),
    ])  # fmt: skip

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mission"]["name"] == "router"
    assert report["unit"] == "subject"
    assert report["seeds"] == [3, 4]
    assert report["held_out"] == {}
    names = {other["baseline"]["name"] for other in report["others"]}
    assert names == {"monolith under the router's plan", "fixed plan", "Arrow"}
    stages = report["regret"]["stages"]
    assert list(stages) == ["plan", "retrieve", "reason", "formalize", "general"]
    lacking = sum(row["estimate"] for stage, row in stages.items() if stage != "plan")
    assert lacking == pytest.approx(1 - report["regret"]["exact_match"], abs=1e-5)
    assert "## Regret by stage" in (tmp_path / "report.md").read_text()


def test_a_monolith_is_needed(tmp_path: Path) -> None:
    """Without a baseline there is nothing to compare."""
    shared = ["--tasks", str(tmp_path), "--policy", str(tmp_path), "--report", str(tmp_path / "r")]

    with pytest.raises(SystemExit):
        command.main(shared)


def test_each_seed_has_every_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A monolith of one seed against two seeds of the router would be another comparison."""
    one = str(tmp_path)

    with pytest.raises(SystemExit):
        command.main([
            *("--tasks", one, one, "--policy", one, one),
            *("--chain", one, "--report", str(tmp_path / "r")),
        ])  # fmt: skip

    assert "--chain: 1 folders for 2 seeds" in capsys.readouterr().err


def test_items_carry_part_and_cluster() -> None:
    """The unit of resampling is the subject of the first fact."""
    items = command.record_items(generate_record_questions("dev", 1000, 6))

    assert {item.category for item in items} == {"facts", "compositions", "both"}
    assert all(item.cluster for item in items)

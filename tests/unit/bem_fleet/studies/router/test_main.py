"""Tests of the router's study command, on the tiny base model."""

import json
from pathlib import Path

import pytest
from bem.engine import LLMEngine
from bem.policy.artifact import save_policy
from bem.testing import tiny_backbone
from bem_fleet.recipes.router.step_examples import PLAN_TASKS
from bem_fleet.studies.router import __main__ as command

from tests.support.policies import tiny_policy
from tests.support.random_adapters import write_adapter


@pytest.mark.slow
def test_the_router_is_compared_on_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All sides answer the same items; clusters are subjects and dev opens nothing."""
    backbone = tiny_backbone(context_tokens=4096)
    monkeypatch.setattr(command, "load_backbone", lambda **_: backbone)

    def engine(*arguments: object, **settings: object) -> LLMEngine:
        return LLMEngine(*arguments, **{**settings, "context_tokens": 4096})  # type: ignore[arg-type]

    monkeypatch.setattr(command, "LLMEngine", engine)
    for seed, task in enumerate((*PLAN_TASKS, "monolith-chain")):
        write_adapter(tmp_path / "tasks", backbone, task, seed=seed)
    artifact = tiny_policy(base_digest=backbone.digest)
    save_policy(tmp_path / "policy", artifact)
    monkeypatch.setattr("sys.argv", ["x", "--split", "dev"])

    command.main([
        *("--tasks", str(tmp_path / "tasks"), "--policy", str(tmp_path / "policy")),
        *("--chain", str(tmp_path / "tasks" / "monolith-chain"), "--items", "3"),
        *("--report", str(tmp_path / "report"), "--cache", str(tmp_path / "cache")),
        *("--fixed", "general/passages/suffix/0"),
    ])  # fmt: skip

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mission"]["name"] == "router"
    assert report["unit"] == "subject"
    assert report["held_out"] == {}
    names = {other["baseline"]["name"] for other in report["others"]}
    assert names == {"monolith under the router's plan", "fixed plan"}


def test_a_monolith_is_needed(tmp_path: Path) -> None:
    """Without a baseline there is nothing to compare."""
    shared = ["--tasks", str(tmp_path), "--policy", str(tmp_path), "--report", str(tmp_path / "r")]

    with pytest.raises(SystemExit):
        command.main(shared)


def test_items_carry_part_and_cluster() -> None:
    """The unit of resampling is the subject of the first fact."""
    items = command.record_items("dev", 6)

    assert {item.category for item in items} == {"facts", "compositions", "both"}
    assert all(item.cluster for item in items)

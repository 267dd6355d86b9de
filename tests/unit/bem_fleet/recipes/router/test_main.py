"""Tests of the recipes' command, on the tiny base model."""

import json
from functools import partial
from pathlib import Path

import pytest
from bem.adapters import read_adapter
from bem.engine import LLMEngine
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.artifact import read_policy
from bem.testing import tiny_backbone
from bem.training.trainer import TrainingConfig
from bem_fleet.recipes.router import __main__ as command
from bem_fleet.recipes.router.plan_outcomes import UNSCOPED_ACTIONS
from bem_fleet.recipes.router.step_examples import PLAN_TASKS

from tests.support.random_adapters import write_adapter


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace base model, context and batch by tiny ones."""
    monkeypatch.setattr(command, "load_backbone", lambda **_: tiny_backbone(context_tokens=4096))
    monkeypatch.setattr(command, "TrainingConfig", partial(TrainingConfig, batch=2))

    def engine(*arguments: object, **settings: object) -> LLMEngine:
        return LLMEngine(*arguments, **{**settings, "context_tokens": 4096})  # type: ignore[arg-type]

    monkeypatch.setattr(command, "LLMEngine", engine)
    # Four plans instead of eighteen: the tree is the same code.
    monkeypatch.setattr(command, "DEFAULT_ACTIONS", (*DEFAULT_ACTIONS[::2], DEFAULT_ACTIONS[5]))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_adapters_outcomes_and_policy_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train each task, run all plans on two splits and train a policy that the router reads."""
    monkeypatch.setattr("sys.argv", ["x", "train"])
    shared = ["--cache", str(tmp_path / "cache"), "--items", "3"]
    adapters = tmp_path / "adapters"
    for task in PLAN_TASKS:
        trained = ["train", "--task", task, "--out", str(adapters), "--epochs", "1", "--rank", "2"]
        command.main([*shared, *trained, "--sites", "o_proj"])
    for split, shard in (("train", "0/2"), ("train", "1/2"), ("dev", "0/1")):
        run = ["outcomes", "--split", split, "--adapters", str(adapters), "--shard", shard]
        command.main([*shared, *run, "--out", str(tmp_path / f"{split}-{shard[0]}"), "--unscoped"])
    tables = ["--train", str(tmp_path / "train-0"), str(tmp_path / "train-1")]
    tables += ["--dev", str(tmp_path / "dev-0")]
    fit = ["--out", str(tmp_path / "policy"), "--clone-steps", "2", "--updates", "1"]
    command.main([*shared, "policy", *tables, *fit])

    digest = tiny_backbone().digest
    card = read_adapter(adapters / "retrieve", base_digest=digest).card
    assert (card.name, card.rank, card.metrics["items"]) == ("retrieve", 2, 3)
    assert card.kinds == ["o_proj"]
    policy = read_policy(tmp_path / "policy", base_digest=digest)
    assert policy.card.metrics["items"] == 3
    assert len(policy.card.kl) == 1
    assert {str(action) for action in UNSCOPED_ACTIONS} <= set(policy.card.actions)
    with pytest.raises(SystemExit):
        command.main([*shared, *run, "--out", str(tmp_path / "none"), "--shard", "2/2"])


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_mixture_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card of X-LoRA says that its classifier had gradients and moved."""
    monkeypatch.setattr("sys.argv", ["x", "xlora"])
    for seed, task in enumerate(PLAN_TASKS):
        write_adapter(tmp_path / "tasks", tiny_backbone(), task, seed=seed, constant_code=True)

    command.main([
        *("--items", "2", "xlora", "--adapters", str(tmp_path / "tasks")),
        *("--out", str(tmp_path / "xlora"), "--epochs", "1"),
    ])  # fmt: skip

    card = json.loads((tmp_path / "xlora" / "xlora.json").read_text())
    assert card["metrics"]["first_gradient"] > 0
    assert card["metrics"]["moved"] > 0
    assert card["settings"]["epochs"] == 1

"""Tests of the training and evaluation command, on the tiny base model."""

import json
from functools import partial
from pathlib import Path

import pytest
from bem.adapters import read_adapter
from bem.testing import tiny_backbone
from bem.training.trainer import TrainingConfig
from bem_fleet.data.passage_qa import PassageQADataset, PassageQuestion
from bem_fleet.recipes.passage_qa import __main__ as command

DATA = PassageQADataset(
    splits={
        "train": [PassageQuestion(f"t{i}", "p" * (i + 1), "q", "a") for i in range(4)],
        "held_out": [PassageQuestion(f"k{i}", f"p{i}", f"who {i}?", f"p{i}") for i in range(3)],
    },
    digest="d" * 64,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace base model, data and layer numbers by tiny ones."""
    monkeypatch.setattr(command, "load_backbone", lambda **_: tiny_backbone(context_tokens=2048))
    monkeypatch.setattr(command, "DATA_SETS", {"passage-qa": lambda _: DATA})
    config = partial(TrainingConfig, feature_layer=0, rank=2, batch=2)
    monkeypatch.setattr(command, "TrainingConfig", config)


@pytest.mark.usefixtures("tiny")
def test_adapter_is_trained_and_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train within a memory budget, evaluate, and compare the seeds."""
    shared = ["--adapter", "passage-qa", "--cache", str(tmp_path / "cache")]
    out, report = tmp_path / "qa", tmp_path / "reports" / "qa.json"
    train = ["train", *shared, "--out", str(out), "--epochs", "1", "--memory-mib", "100000"]
    monkeypatch.setattr("sys.argv", ["x", *train])
    command.main(train)
    assert "4 examples, 2 steps" in capsys.readouterr().out
    card = read_adapter(out, base_digest=tiny_backbone().digest).card
    assert (card.layers, card.rank, card.data_digest) == ([2, 3], 2, "d" * 64)
    assert card.command.startswith("python -m bem_fleet.recipes.passage_qa train --adapter")

    command.main(["evaluate", *shared, "--out", str(out), "--report", str(report)])
    figures = json.loads(report.read_text())["figures"]
    assert read_adapter(out, base_digest=tiny_backbone().digest).card.metrics["figures"] == figures

    stem = ["--artifacts", str(out), str(out), "--report", str(tmp_path / "seeds"), "--limit", "2"]
    command.main(["seeds", *shared, *stem])
    assert json.loads((tmp_path / "seeds.json").read_text())["seeds"] == [0, 0]


@pytest.mark.usefixtures("tiny")
def test_a_variant_is_named_on_the_card(tmp_path: Path) -> None:
    """A rank mask is trained on a few examples, and its card says how many ranks are active."""
    out = tmp_path / "qa"
    shared = ["--adapter", "passage-qa", "--cache", str(tmp_path / "cache"), "--out", str(out)]
    command.main(["train", *shared, "--limit", "2", "--epochs", "1", "--variant", "rank_mask"])
    card = read_adapter(out, base_digest=tiny_backbone().digest).card

    assert (card.variant, card.active_ranks, card.rank) == ("rank_mask", 1, 2)


@pytest.mark.usefixtures("tiny")
def test_parity_lists_every_variant_at_every_site(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has parameters, multiplications and the rank that the engine serves."""
    command.main(["parity", "--rank", "8"])
    rows = capsys.readouterr().out.splitlines()[2:]

    assert len(rows) == 10
    assert rows[0] == "| plain | o_proj | 512 (+0.0%) | 512 (+0.0%) | 8 | yes |"


def test_help_names_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage is the command that the card states."""
    with pytest.raises(SystemExit):
        command.main(["train", "--help"])

    assert "python -m bem_fleet.recipes.passage_qa train" in capsys.readouterr().out

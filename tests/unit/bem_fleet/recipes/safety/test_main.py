"""Tests of the safety training command, on the tiny base model."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters.site import default_layers
from bem.backbone import Backbone
from bem.errors import InvalidSettingError
from bem.safety import ValueHead, read_safety
from bem.safety.overlay import load_value_head
from bem.testing import tiny_backbone
from bem.training.safety.trainer import SafetyTrainingConfig
from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.guard_texts import HARMLESS, written_texts
from bem_fleet.data.held_out import inspection
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.recipes.safety import __main__ as command
from bem_fleet.recipes.safety import development, examples
from bem_fleet.recipes.safety.__main__ import LabelledRequest

from tests.support.random_adapters import write_adapter
from tests.support.text_digests import shared_texts

# Families whose draw is held out with seed 1 calibrate the value head.
FAMILIES = ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l")
ATTACKS = [
    RedTeamPrompt(f"a{i}", f"attack {i} {family}", family, "harm", "train")
    for i, family in enumerate(FAMILIES)
]


def harmless(split: str) -> list[BenignText]:
    """Return harmless prompts of a split."""
    return [BenignText(f"{split}{i}", f"{split} question {i}", "asdiv") for i in range(4)]


def test_safety_adapter_is_trained_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The artifact has the card of its configuration, a fitted value head and a curve."""
    backbone = tiny_backbone()
    write_adapter(tmp_path / "adapters", backbone, "alpha", seed=1)
    config = partial(SafetyTrainingConfig, rank=2, attacks=2, harmless=2)
    loaded: list[str] = []

    def load(source: str, **_: Any) -> Backbone:
        loaded.append(source)
        return tiny_backbone()

    monkeypatch.setattr(command, "load_backbone", load)
    monkeypatch.setattr(command, "SafetyTrainingConfig", config)
    for module in (command, examples):
        monkeypatch.setattr(module, "load_red_team", lambda _: ATTACKS)
    for module in (command, examples, development):
        monkeypatch.setattr(module, "load_benign_requests", harmless)
    arguments = [
        *["--out", str(tmp_path / "out"), "--curves", str(tmp_path / "curves")],
        *["--adapters", str(tmp_path / "adapters"), "--cache", str(tmp_path / "cache")],
        *["--layers", "2", "--steps", "3", "--attacks", "4", "--harmless", "2"],
        *["--requests", "12", "--measured", "6", "--backbone", "models/own"],
    ]
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    command.main(arguments)
    artifact = read_safety(tmp_path / "out", base_digest=backbone.digest)
    printed = json.loads(capsys.readouterr().out)

    assert (artifact.card.layers, artifact.card.rank, artifact.card.basis) == ([2, 3], 2, 4)
    assert artifact.card.command.startswith("python -m bem_fleet.recipes.safety --out")
    assert artifact.card.metrics == printed
    assert set(printed["training"]) == {"harm", "kl"}
    assert printed["development"]["harmful"]["items"] == 6
    # Beside the packaged attacks there are as many written ones to fit and to calibrate on.
    attacks = len(FAMILIES) + 2 * 12
    assert printed["value"]["attacks"] + printed["value"]["dev_attacks"] == attacks
    assert load_value_head(artifact).linear.weight.any()
    assert len((tmp_path / "curves" / "curve.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "curves" / "curve.png").is_file()

    before = read_safety(tmp_path / "out", base_digest=backbone.digest)
    command.main([*arguments[:2], *arguments[6:8], *arguments[-4:], "--value-head-only"])
    after = read_safety(tmp_path / "out", base_digest=backbone.digest)

    assert loaded == ["models/own"] * 2
    assert after.version != before.version
    assert after.card.metrics["training"] == before.card.metrics["training"]
    # The same requests fit the same probe; the written ones move its threshold.
    assert load_value_head(after).threshold != load_value_head(before).threshold
    for site, factors in before.factors.items():
        assert all(a.equal(b) for a, b in zip(factors, after.factors[site], strict=True))


@pytest.mark.parametrize("count", [2, 3, 8, 18, 30])
def test_layers_and_feature_are_those_of_a_missions_bank(count: int) -> None:
    """A safety adapter of any base fits the bank that the router opens for it."""
    config = command.safety_config(count, 6, steps=1)
    first, feature = default_layers(count)

    assert config.layers == tuple(range(max(first, count - 6), count))
    assert config.feature_layer == feature < min(config.layers)
    if count == 30:  # the packaged model's
        assert (config.layers, config.feature_layer) == (tuple(range(24, 30)), 8)


def test_a_model_of_one_layer_is_refused() -> None:
    """It has no layer below the sites for the value head."""
    with pytest.raises(InvalidSettingError, match="has 1 layer"):
        command.safety_config(1, 6)


def test_help_names_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage is the command that the card states."""
    with pytest.raises(SystemExit):
        command.main(["--help"])

    assert "python -m bem_fleet.recipes.safety" in capsys.readouterr().out


def test_curves_are_needed_for_training_only(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option."""
    with pytest.raises(SystemExit):
        command.main(["--out", "nowhere"])

    assert "--curves" in capsys.readouterr().err


def test_written_requests_fit_and_calibrate_and_none_is_held_out() -> None:
    """Each split has harmless and harmful ones of all families; what calibrates fits nothing."""
    requests = command._written_requests(60)
    with inspection():
        held = {one.text for one in written_texts("held_out")}
    groups = Counter((one.dev, one.risky) for one in requests)
    fitted, calibrating = (
        {one.family for one in requests if one.dev == dev} for dev in (False, True)
    )
    harmless = {one.family for one in requests if one.dev and not one.risky}
    written = {one.family for one in written_texts("dev") if one.label == HARMLESS}

    assert groups == dict.fromkeys([(a, b) for a in (False, True) for b in (False, True)], 60)
    assert all(one.written for one in requests)
    assert harmless == written
    assert not fitted & calibrating
    shared = shared_texts(held, (one.text for one in requests))
    assert not shared


def test_threshold_of_the_value_head_weighs_families_alike() -> None:
    """Only the chosen requests count, and a large easy family does not dilute a hard one."""
    head = ValueHead(1)
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
    families = ["easy"] * 1000 + ["hard"] * 4 + ["attack"]
    requests = [LabelledRequest("x", family, family == "attack", dev=True) for family in families]
    logits = torch.tensor([-3.0] * 1000 + [1.0, -2.0, -2.0, -2.0] + [9.0])[:, None]
    chosen = torch.tensor([not one.risky for one in requests])

    assert command._choose_threshold(head, logits, requests, chosen) == pytest.approx(1.0)
    chosen[1000:] = False
    assert command._choose_threshold(head, logits, requests, chosen) == pytest.approx(-3.0)

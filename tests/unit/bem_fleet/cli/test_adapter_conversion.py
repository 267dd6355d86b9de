"""``fleetctl adapters import|export``: conversion from and to PEFT folders."""

import json
from pathlib import Path

import pytest
from bem.adapters.artifact import read_adapter_card
from bem.testing import tiny_backbone
from bem_fleet.cli import adapter_conversion, main

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.random_safety_adapters import write_safety


@pytest.fixture
def peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PEFT folder of an adapter, and a base model that the commands load."""
    monkeypatch.setattr(adapter_conversion, "load_backbone", lambda *_, **__: tiny_backbone())
    monkeypatch.setenv("BEM_ROUTER_FIRST_LAYER", str(min(LAYERS)))
    monkeypatch.setenv("BEM_ROUTER_FEATURE_LAYER", str(FEATURE_LAYER))
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=1, constant_code=True)
    assert main(["adapters", "export", str(tmp_path / "alpha"), "--out", str(tmp_path / "p")]) == 0
    return tmp_path / "p"


def run_import(peft: Path, name: str, *options: str, safety: str = "none") -> int:
    """Import the folder as an adapter beside it."""
    folders = ["--out", str(peft.parent / name), "--safety", str(peft.parent / safety)]
    return main(["adapters", "import", str(peft), "--name", name, *folders, *options])


def test_export_and_import_round_trip(peft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exported folder comes back under another name with the same rank and layers."""
    assert run_import(peft, "beta") == 0
    out = ["--out", str(peft.parent / "again")]
    assert main(["adapters", "export", str(peft.parent / "beta"), *out]) == 0
    printed = capsys.readouterr().out
    back, card = read_adapter_card(peft.parent / "beta"), read_adapter_card(peft.parent / "alpha")

    assert "PEFT computes the adapter's outputs" in printed
    assert f"adapter beta: rank {RANK}, 2 layers" in printed
    assert "the safety basis changes nothing" in printed
    assert (back.name, back.layers, back.kinds) == ("beta", card.layers, card.kinds)
    assert back.command == "fleetctl adapters import --name beta"


def test_projection_is_reported_and_can_be_declined(
    peft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The import says what the safety basis changes, and --exact stands in the card."""
    write_safety(peft.parent / "safety", tiny_backbone())
    assert run_import(peft, "projected", safety="safety") == 0
    assert run_import(peft, "exact", "--exact", safety="safety") == 0
    printed = capsys.readouterr().out
    found = {name: read_adapter_card(peft.parent / name) for name in ("projected", "exact")}

    assert "logits change by up to" in printed
    assert "import with --exact" in printed
    assert "served exactly (--exact)" in printed
    assert (found["projected"].exact, found["exact"].exact) == (False, True)
    assert found["projected"].metrics["peft"]["projection_logit_difference"] > 0.1


def test_refusal_is_one_line(peft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unsupported option, another base, a rank beyond the setting and another folder's name."""
    config = peft / "adapter_config.json"
    good = json.loads(config.read_text())
    config.write_text(json.dumps(good | {"use_dora": True}))
    assert run_import(peft, "beta") == 1
    config.write_text(json.dumps(good | {"base_model_name_or_path": "acme/other"}))
    assert run_import(peft, "beta") == 1
    forced = run_import(peft, "gamma", "--force")
    config.write_text(json.dumps(good))
    assert main(["adapters", "import", str(peft), "--name", "x", "--out", str(peft / "y")]) == 1
    assert main(["adapters", "export", str(peft), "--out", str(peft / "z")]) == 1
    errors = capsys.readouterr().err.splitlines()

    assert forced == 0
    assert len(errors) == 4
    for line, named in zip(errors, ("use_dora", "--force", "out: ", "card.json"), strict=True):
        assert line.startswith("fleetctl: ")
        assert named in line


def test_rank_beyond_the_mission_names_the_setting(
    peft: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit is the mission's setting of the same environment."""
    monkeypatch.setenv("BEM_ROUTER_RANK", "2")
    assert run_import(peft, "beta") == 1
    monkeypatch.setenv("BEM_ROUTER_RANK", str(RANK))

    assert run_import(peft, "beta") == 0
    assert f"set BEM_ROUTER_RANK={RANK}" in capsys.readouterr().err

"""Tests of the adapter conversion command."""

from pathlib import Path

import pytest
from bem.adapters import __main__ as command
from bem.adapters.artifact import read_adapter_card
from bem.testing import tiny_backbone

from tests.support.random_adapters import RANK, write_adapter


def test_export_and_import_round_trip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exported folder comes back under another name with the same rank and layers."""
    backbone = tiny_backbone()
    card = write_adapter(tmp_path, backbone, "alpha", seed=1)
    monkeypatch.setattr(command, "load_backbone", lambda **_: backbone)
    command.main(["export", str(tmp_path / "alpha"), "--out", str(tmp_path / "peft")])
    command.main([
        *["import", str(tmp_path / "peft"), "--name", "beta"],
        *["--out", str(tmp_path / "beta"), "--like", str(tmp_path / "alpha")],
    ])  # fmt: skip
    printed = capsys.readouterr().out
    back = read_adapter_card(tmp_path / "beta")

    assert "its outputs at code one" in printed
    assert f"adapter beta: rank {RANK}, 2 layers" in printed
    assert (back.name, back.layers, back.kinds) == ("beta", card.layers, card.kinds)
    assert back.command == "python -m bem.adapters import --name beta"


def test_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the usage is printed."""
    with pytest.raises(SystemExit):
        command.main([])

    assert "python -m bem.adapters" in capsys.readouterr().err

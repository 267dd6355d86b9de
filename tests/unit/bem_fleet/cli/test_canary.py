"""``fleetctl canary``: what a person's words and files ask for."""

from pathlib import Path

import pytest
from bem_fleet.cli import main
from bem_fleet.cli.canary import specification
from fleet.errors import InvalidArgumentError
from fleet.testing import free_port


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    """What is not said there stays as the file has it."""
    file = tmp_path / "canary.yaml"
    file.write_text("model: a\nshadow: 20\nanalysis: {alpha: 0.01}\n")
    found = specification(file, model="b", image="", steps=["10:5", "50"], shadow=None, attempt=2)

    assert found == {
        "model": "b",
        "shadow": 20,
        "analysis": {"alpha": 0.01},
        "steps": [{"weight": 10, "seconds": 5}, {"weight": 50, "seconds": 60}],
        "attempt": 2,
    }


def test_wrong_words_are_named(tmp_path: Path) -> None:
    """A step that is no pair of numbers, and a file that holds no mapping."""
    file = tmp_path / "canary.yaml"
    file.write_text("- model\n")
    with pytest.raises(InvalidArgumentError, match="'a:b' is not weight:seconds"):
        specification(None, model="b", image="", steps=["a:b"])
    with pytest.raises(InvalidArgumentError, match=r"canary\.yaml holds no mapping"):
        specification(file, model="b", image="", steps=[])


def test_an_orchestrator_that_is_away_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2: nothing was asked, nothing was refused."""
    address = f"127.0.0.1:{free_port()}"
    status = main(["canary", "--address", address, "status", "router"])

    assert status == 2
    assert f"orchestrator at {address}" in capsys.readouterr().err

"""``fleetctl canary``: specification from command line and file, and exit codes."""

from pathlib import Path

import pytest
from bem_fleet.cli import main
from bem_fleet.cli.canary import specification
from fleet.errors import InvalidArgumentError
from fleet.testing import free_port


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    """What the command line leaves out stays as the file has it."""
    file = tmp_path / "canary.yaml"
    file.write_text("model: a\nshadow: 20\nanalysis: {alpha: 0.01}\n")
    canary = specification(file, model="b", image="", steps=["10:5", "50"], shadow=None, attempt=2)

    assert canary == {
        "model": "b",
        "shadow": 20,
        "analysis": {"alpha": 0.01},
        "steps": [{"weight": 10, "seconds": 5}, {"weight": 50, "seconds": 60}],
        "attempt": 2,
    }


def test_invalid_step_and_file_are_named(tmp_path: Path) -> None:
    """A step that is no pair of numbers, and a file that is no mapping."""
    file = tmp_path / "canary.yaml"
    file.write_text("- model\n")
    with pytest.raises(InvalidArgumentError, match="'a:b' is not weight:seconds"):
        specification(None, model="b", image="", steps=["a:b"])
    with pytest.raises(InvalidArgumentError, match=r"canary\.yaml is not a mapping"):
        specification(file, model="b", image="", steps=[])


def test_unreachable_orchestrator_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was refused: the orchestrator could not be reached."""
    address = f"127.0.0.1:{free_port()}"
    status = main(["canary", "--address", address, "status", "router"])

    assert status == 2
    assert f"orchestrator at {address}" in capsys.readouterr().err

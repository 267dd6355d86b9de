"""``fleetctl``: the command line as people use it."""

from pathlib import Path

import pytest
from bem_fleet.cli import experiments, fleetctl

COMMANDS = {
    *("up", "down", "status", "logs", "canary", "gates", "audit", "adapters"),
    *("train", "evaluate", "study", "new-mission"),
}


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Help names each command."""
    assert fleetctl.main(["--help"]) == 0
    shown = capsys.readouterr().out

    assert not [name for name in COMMANDS if name not in shown]


def test_recipe_options_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that fleetctl does not know reach the recipe, --help included."""
    calls: list[tuple[str, list[str]]] = []

    def run(_: object, name: str, options: list[str]) -> int:
        calls.append((name, options))
        return 7

    monkeypatch.setattr(experiments, "run_experiment", run)

    assert fleetctl.main(["train", "passage-qa", "--seed", "3", "--help"]) == 7
    assert calls == [("passage-qa", ["--seed", "3", "--help"])]


def test_unreachable_redis_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An audit log that cannot be read is neither valid nor invalid."""
    missing = tmp_path / "key"

    assert fleetctl.main(["audit", "verify", "--key-file", str(missing)]) == 2
    assert "key_file" in capsys.readouterr().err

"""``fleetctl``: the command line as people use it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from bem_fleet.checkout import ROOT
from bem_fleet.cli import experiments, fleetctl

COMMANDS = {
    *("up", "down", "status", "logs", "canary", "gates", "audit", "adapters"),
    *("train", "evaluate", "study", "new-mission", "bench"),
    *("missions", "safety", "feedback", "versions", "memory", "keys", "claims"),
}


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Help names each command."""
    assert fleetctl.main(["--help"]) == 0
    shown = capsys.readouterr().out

    assert not [name for name in COMMANDS if name not in shown]


def _leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from _leaves(one, (*path, name))
        else:
            yield (*path, name), one


# What these print is the output of other programs, or progress.
WITHOUT_JSON = {"up", "down", "logs", "monitoring", "train", "evaluate", "study", "bench"}


def test_every_report_can_be_json() -> None:
    """``--json`` is an option of each command, and of those that call services ``--context``."""
    options = {
        path: {flag for parameter in one.params for flag in parameter.opts}
        for path, one in _leaves(typer.main.get_command(fleetctl.app))
    }
    without = {path[0] for path, flags in options.items() if "--json" not in flags}
    services = {"canary", "adapters", "memory", "versions", "missions", "safety"}
    calling = [path for path in options if path[0] in services]
    of_files = {("adapters", name) for name in ("import", "export", "diff")}

    assert len(options) > 45
    assert without == {*WITHOUT_JSON, "new-mission"}
    assert {path for path in calling if "--context" not in options[path]} == of_files


@pytest.mark.slow
def test_shell_completes_commands() -> None:
    """Typer's own completion: commands, and options of a command."""
    environment = {**os.environ, "_FLEETCTL_COMPLETE": "complete_bash"}
    found = {}
    for words in ("fleetctl missi", "fleetctl canary st"):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        code = "import sys; from bem_fleet.cli import main; sys.exit(main([]))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, **asked},
            capture_output=True,
            text=True,
            check=True,
        )
        found[words] = done.stdout.split()

    assert found == {"fleetctl missi": ["missions"], "fleetctl canary st": ["start", "status"]}


def test_benchmarks_exist() -> None:
    """Each name is a module of the checkout."""
    for (module,) in experiments.BENCHMARKS.values():
        name = module.removeprefix("benchmarks.")
        folder = ROOT / "benchmarks"
        assert (folder / f"{name}.py").is_file() or (folder / name / "__main__.py").is_file()


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

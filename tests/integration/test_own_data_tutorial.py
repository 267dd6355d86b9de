"""Tutorial of people's own data: its commands run as they are written, on the packaged model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bem.adapters.artifact import read_adapter_card
from bem_fleet.cli.fleetctl import app
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "own_data.md"
BLOCKS = re.compile(r"(?ms)^```(\w*)\n(.*?)^```")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_commands_lead_from_a_file_to_an_adapter_with_a_report(tmp_path: Path) -> None:
    """Data, check, training and comparison; the adapter is better with an interval above zero."""
    commands = [text for kind, text in BLOCKS.findall(PAGE.read_text()) if kind == "bash"]
    assert len(commands) == 4
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'libs'}:{ROOT}",
    }
    outputs = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    card = read_adapter_card(tmp_path / "adapters" / "tickets")
    report = json.loads((tmp_path / "tickets.report.json").read_text())
    again = json.loads((tmp_path / "again.json").read_text())

    assert "train.jsonl: 120 items" in outputs[1]
    assert "estimate: about" in outputs[1]
    assert "epoch 2 is kept" in outputs[2]
    assert card.rank == 8
    assert card.metrics["own_data"]["n_items"] == report["n_items"] == 30
    assert report["metrics"]["logprob_per_token"]["ci_low"] > 1
    assert report["metrics"]["exact_match"]["ci_low"] > 0.3
    assert again["metrics"] == report["metrics"]


def test_commands_of_the_fleet_exist() -> None:
    """Verbs and options of the last section are those of the command line."""
    last = [text for kind, text in BLOCKS.findall(PAGE.read_text()) if not kind][-1]
    lines = [line.split() for line in last.splitlines() if line]
    assert len(lines) == 3
    for program, group, verb, *words in lines:
        assert program == "fleetctl"
        command = get_command(app).commands[group].commands[verb]  # type: ignore[attr-defined] # a group
        options = {name for one in command.params for name in one.opts}
        assert {word for word in words if word.startswith("--")} <= options

"""``kubectl bem``: what it runs and what it shows."""

import json
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.cli.kubectl_bem import explanation, history, main, table

MISSION: dict[str, Any] = {
    "metadata": {"name": "router"},
    "status": {
        "canary": {
            "phase": "Canary",
            "image": "new:2",
            "reason": "step 1",
            "step": 1,
            "weight": 10,
            "stableWeight": 90,
            "gate": {
                "verdict": "continue",
                "pairs": 40,
                "reasons": "errors is not shown yet; latency is not shown yet",
                "delta": "errors +0.0000",
                "p": "0.4",
            },
            "history": [
                {"time": "t", "id": "a", "phase": "Canary", "step": 1, "pairs": 0, "reason": "r"}
            ],
        }
    },
}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that writes down what it is asked and answers with a mission."""
    log, made = tmp_path / "asked", tmp_path / "kubectl"
    made.write_text(f"#!/bin/sh\necho \"$@\" >> {log}\ncat <<'E'\n{json.dumps(MISSION)}\nE\n")
    made.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return log


def test_a_start_is_a_patch(kubectl: Path) -> None:
    """The patch sets what is tried and clears what an earlier canary tried."""
    main(["-n", "bem", "canary", "start", "router", "--image", "new:2", "--step", "10:30"])
    asked = kubectl.read_text()

    assert asked.startswith("--namespace bem patch mission router --type=merge -p ")
    patch = json.loads(asked.partition(" -p ")[2])
    assert patch["spec"]["canary"] == {
        "image": "new:2",
        "model": None,
        "steps": [{"weight": 10, "seconds": 30}],
    }


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort"])
def test_steering_is_an_annotation(kubectl: Path, verb: str) -> None:
    """Each verb sets the annotation that the orchestrator reads."""
    main(["canary", verb, "router"])

    asked = kubectl.read_text().strip()
    assert asked == f"annotate mission router fleet.bem.dev/canary={verb} --overwrite"


def test_the_command_that_runs_is_printed(kubectl: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """People see the plain kubectl."""
    main(["canary", "status", "router"])
    shown = capfd.readouterr()

    assert shown.err.strip() == "$ kubectl get mission router -o json"
    assert "90 / 10 %" in shown.out
    assert kubectl.exists()


def test_status_gate_and_history_are_readable() -> None:
    """Phase, weights, what is open, and how it came."""
    assert "continue after 40 pairs" in table(MISSION)
    assert "  errors is not shown yet" in explanation(MISSION)
    assert "p 0.4 (always valid)" in explanation(MISSION)
    assert history(MISSION).startswith("t  a  Canary")
    assert table({"metadata": {"name": "x"}}) == "x: no canary yet"

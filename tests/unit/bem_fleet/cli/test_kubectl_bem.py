"""kubectl plug-in: the kubectl commands that it runs."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.cli.kubectl_bem import main

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
    """A kubectl that records its arguments and prints a mission."""
    log, made = tmp_path / "arguments", tmp_path / "kubectl"
    made.write_text(f"#!/bin/sh\necho \"$@\" >> {log}\ncat <<'E'\n{json.dumps(MISSION)}\nE\n")
    made.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return log


def test_a_start_is_a_patch(kubectl: Path) -> None:
    """The patch sets the candidate and clears the one of an earlier canary."""
    main(["-n", "bem", "canary", "start", "router", "--image", "new:2", "--step", "10:30"])
    arguments = kubectl.read_text()

    assert arguments.startswith("--namespace bem patch mission router --type=merge -p ")
    patch = json.loads(arguments.partition(" -p ")[2])
    assert patch["spec"]["canary"] == {
        "image": "new:2",
        "model": None,
        "steps": [{"weight": 10, "seconds": 30}],
    }


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort"])
def test_steering_is_an_annotation(kubectl: Path, verb: str) -> None:
    """Each verb sets the annotation that the orchestrator reads."""
    main(["canary", verb, "router"])

    arguments = kubectl.read_text().strip()
    assert arguments == f"annotate mission router fleet.bem.dev/canary={verb} --overwrite"


def test_the_command_that_runs_is_printed(kubectl: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """People see the plain kubectl."""
    main(["canary", "status", "router"])
    shown = capfd.readouterr()

    assert shown.err.strip() == "$ kubectl get mission router -o json"
    assert "90 / 10 %" in shown.out
    assert kubectl.exists()


@pytest.mark.parametrize("words", [[], ["--image", "new:2", "--model", "a"]])
def test_start_needs_exactly_one_candidate(
    words: list[str], kubectl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither none nor two: exit code 2, and kubectl is not run."""
    assert main(["canary", "start", "router", *words]) == 2
    assert "exactly one of --image and --model" in capsys.readouterr().err
    assert not kubectl.exists()


def test_namespace_may_come_last(kubectl: Path) -> None:
    """As with kubectl, the option is accepted before and after the command."""
    main(["canary", "status", "router", "-n", "bem"])

    assert kubectl.read_text().startswith("--namespace bem get mission router")


def test_certificate_is_written_for_its_owner_only(kubectl: Path, tmp_path: Path) -> None:
    """The files of the clients' Secret, in a folder that nobody else can enter."""
    files = {"tls.crt": "c", "tls.key": "k", "ca.crt": "a"}
    data = {name: base64.b64encode(text.encode()).decode() for name, text in files.items()}
    (tmp_path / "kubectl").write_text(
        f"#!/bin/sh\necho \"$@\" >> {kubectl}\necho '{json.dumps({'data': data})}'\n"
    )
    folder = tmp_path / "own" / "tls"

    assert main(["-n", "bem", "certificate", str(folder), "--release", "f"]) == 0
    assert kubectl.read_text().strip() == "--namespace bem get secret f-client-tls -o json"
    assert {path.name: path.read_text() for path in folder.iterdir()} == files
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}

"""kubectl plug-in: the kubectl commands that it runs."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.cli.kubectl_bem import main
from bem_fleet.services.orchestrator.canary.spec import canary_digest

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
    log = tmp_path / "arguments"
    answer(log, MISSION)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return log


def answer(log: Path, mission: dict[str, Any]) -> None:
    """Let the kubectl beside ``log`` print another mission."""
    made = log.parent / "kubectl"
    made.write_text(f"#!/bin/sh\necho \"$@\" >> {log}\ncat <<'E'\n{json.dumps(mission)}\nE\n")
    made.chmod(0o755)


def ended(**canary: Any) -> dict[str, Any]:
    """Return the mission after a canary with everything has ended."""
    old = {
        "image": "old:1",
        "env": {"A": "1"},
        "shadow": 50,
        "analysis": {"errorMargin": 0.5},
        "attempt": 3,
    }
    return {
        "metadata": {"name": "router", "resourceVersion": "7"},
        "spec": {"canary": old},
        "status": {"canary": {"id": "x", "phase": "RolledBack", "image": "old:1", **canary}},
    }


def test_a_start_replaces_all_of_an_earlier_canary(
    kubectl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The patch names every field of the earlier canary, and the output says what runs."""
    answer(kubectl, ended())
    code = main(["-n", "bem", "canary", "start", "router", "--image", "new:2", "--step", "10:30"])
    arguments = kubectl.read_text().splitlines()[-1]
    shown = capsys.readouterr()

    assert code == 0
    assert arguments.startswith("--namespace bem patch mission router --type=merge -p ")
    patch = json.loads(arguments.partition(" -p ")[2])
    assert patch == {
        "metadata": {"resourceVersion": "7"},
        "spec": {
            "canary": {
                "image": "new:2",
                "env": None,
                "shadow": None,
                "analysis": None,
                "attempt": None,
                "steps": [{"weight": 10, "seconds": 30}],
            }
        },
    }
    assert "image: new:2" in shown.out
    assert "quality of its answers is not judged" in shown.err


def test_a_start_with_probes_is_judged(
    kubectl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Probes of a file become part of the analysis; another file is refused by name."""
    answer(kubectl, ended())
    probes = tmp_path / "probes.yaml"
    probes.write_text("- {prompt: 'Capital of France?', answers: [Paris]}\n")
    command = ["canary", "start", "router", "--model", "qa-2", "--probes", str(probes)]
    code = main(command)
    arguments = kubectl.read_text().splitlines()[-1]
    patch = json.loads(arguments.partition(" -p ")[2])
    shown = capsys.readouterr().err
    probes.write_text("Paris\n")

    assert code == 0
    assert patch["spec"]["canary"]["analysis"] == {
        "probes": [{"prompt": "Capital of France?", "answers": ["Paris"]}]
    }
    assert "not judged" not in shown
    assert main(command) != 0


@pytest.mark.parametrize(
    ("status", "more", "said"),
    [
        ({"phase": "Canary"}, [], "a canary of old:1 is in progress (Canary)"),
        ({"phase": "Canary"}, ["--replace"], ""),
        ({"id": canary_digest({"image": "new:2"})}, [], "raise --attempt to try it again"),
        ({"id": canary_digest({"image": "new:2"})}, ["--attempt", "1"], ""),
    ],
)
def test_a_start_that_starts_nothing_is_refused(
    kubectl: Path,
    capsys: pytest.CaptureFixture[str],
    status: dict[str, str],
    more: list[str],
    said: str,
) -> None:
    """A running canary is not replaced silently, and the same one does not seem to start."""
    answer(kubectl, ended(**status))
    code = main(["canary", "start", "router", "--image", "new:2", *more])

    assert code == (1 if said else 0)
    assert said in capsys.readouterr().err
    assert ("patch" in kubectl.read_text()) is not bool(said)


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

"""Every command of ``fleetctl`` with ``--context`` on an installed fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fleetctl import fleetctl
from tests.cluster.kubernetes_cli import Release, wait_for
from tests.support.fleetctl_commands import COMMANDS, ClusterCommand

pytestmark = [pytest.mark.stage("commands"), pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A document for mission memory."""
    path = tmp_path_factory.mktemp("documents") / "harbours.txt"
    path.write_text("The harbour of Lisbon opens at dawn.\n")
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.line)
def test_command_answers_from_the_cluster(
    release: Release, text: Path, command: ClusterCommand
) -> None:
    """It finds its service, key and certificate; a refusal is the service's own, as JSON."""
    code, found, errors = fleetctl(release, *command.words(str(text)))

    assert code in command.codes, f"{found} {errors}"
    assert found is not None
    assert "Traceback" not in errors


def test_status_names_the_missions_of_the_release(release: Release) -> None:
    """All run, as `helm install --wait` has said."""

    def healthy() -> Any:
        code, found, _ = fleetctl(release, "status")
        return found if code == 0 else None

    found = wait_for(healthy, "healthy missions", limit_s=120, interval_s=5)
    assert {"router", "online", "sep", "memory"} <= {one["name"] for one in found["missions"]}


def test_an_adapter_is_unloaded_and_loaded(release: Release) -> None:
    """The list of the mission follows."""

    def names() -> set[str]:
        return {one["name"] for one in fleetctl(release, "adapters", "list")[1]["adapters"]}

    try:
        assert fleetctl(release, "adapters", "unload", "passage-qa")[0] == 0
        assert "passage-qa" not in names()
    finally:
        code, _, errors = fleetctl(release, "adapters", "load", "passage-qa")

    assert (code, errors) == (0, "")
    assert "passage-qa" in names()


def test_memory_reads_a_file_and_cites_it(release: Release, text: Path) -> None:
    """The document is complete, and the citation is of it; untrained modules may doubt it."""
    session = ("memory", "--session", "cited")
    assert fleetctl(release, *session, "ingest", str(text))[0] == 0
    covered = fleetctl(release, *session, "coverage")[1]
    question = ("ask", "When does the harbour of Lisbon open?", "--max-tokens", "0")
    asked = fleetctl(release, *session, *question)[1]

    assert [(one["name"], one["complete"]) for one in covered["documents"]] == [(text.name, True)]
    assert {one["document"] for one in asked["spans"]} == {text.name}
    assert fleetctl(release, *session, "forget")[0] == 0


def test_what_a_command_does_is_audited(release: Release) -> None:
    """The strength that an operator sets is in the log, whose chain the witness finds valid."""
    assert fleetctl(release, "safety", "strength", "1", "--tenant", "audited")[0] == 0

    def records() -> list[Any]:
        found: list[Any] = fleetctl(release, "audit", "list", "--last", "100")[1]
        return [one for one in found if "SetStrength" in json.dumps(one)]

    assert wait_for(records, "audit record of SetStrength", limit_s=60, interval_s=3)
    assert fleetctl(release, "audit", "verify")[0] == 0


def test_a_context_that_does_not_exist_is_exit_code_2(release: Release) -> None:
    """Kubectl's reason is told, and nothing is printed as an answer."""
    code, found, errors = fleetctl(release, "status", context="nowhere")

    assert (code, found) == (2, None)
    assert "nowhere" in errors

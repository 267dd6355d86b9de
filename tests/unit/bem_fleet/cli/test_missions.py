"""``fleetctl missions`` against an orchestrator of canned responses."""

import json
from collections.abc import Iterator

import pytest
from bem_fleet.cli import main

from tests.support.canned_fleet import canned_fleet


@pytest.fixture
def address() -> Iterator[str]:
    """Address of orchestrator and mission."""
    with canned_fleet() as (_, port):
        yield f"127.0.0.1:{port}"


def run(capsys: pytest.CaptureFixture[str], address: str, *words: str) -> tuple[int, str]:
    """Run a command; returns its exit code and standard output."""
    code = main(["missions", *words, "--address", address])
    return code, capsys.readouterr().out


def test_list_shows_pods_and_canary(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mission without a canary has none, and what fails has its reason."""
    code, shown = run(capsys, address, "list")
    heading, router, sep = shown.splitlines()

    assert code == 0
    assert heading.split() == [
        *("mission", "phase", "priority", "ready", "canary", "weight", "reason")
    ]
    assert router.split() == [
        *("router", "Running", "high", "1/2", "tickets", "Canary", "10", "%"),
        *("1", "of", "2", "pods"),
    ]
    assert sep.split() == ["sep", "Stopped", "0/0", "-", "-"]


def test_description_has_methods_and_warnings(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a client needs for a call, and what is missing."""
    _, shown = run(capsys, address, "describe", "router")

    assert "base model: tiny" in shown
    assert "stream of answers" in shown
    assert "warning: no safety adapter" in shown


def test_graph_names_what_fails(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON."""
    _, shown = run(capsys, address, "graph")
    _, found = run(capsys, address, "graph", "--json")

    assert "no pod is ready" in shown
    assert [one["healthy"] for one in json.loads(found)["edges"]] == [True, False]


def test_gpus_name_nodes_and_unmet_requests(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where pods are, and why others are not placed."""
    _, shown = run(capsys, address, "gpus")

    assert "H100" in shown
    assert "n1 1" in shown
    assert "no GPU left" in shown


@pytest.mark.slow
def test_unknown_mission_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an address it must be one of this machine."""
    assert main(["missions", "describe", "nothing"]) == 2
    assert "'nothing' is no service of this machine; services: gateway" in capsys.readouterr().err

"""The plan of the local fleet."""

import socket
from pathlib import Path

import pytest
from bem_fleet.cli.local.checks import NotReadyToStartError, check
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.local.supervision import configuration


def test_mission_has_no_network_port(tmp_path: Path) -> None:
    """The router is given a unix socket, and its sidecar the same one as upstream."""
    programs = {program.name: program for program in Plan(run=tmp_path).programs()}

    address = programs["router"].environment["BEM_ROUTER_ADDRESS"]
    assert address.startswith("unix:")
    assert programs["safety"].environment["BEM_SAFETY_UPSTREAM"] == address


def test_long_run_folder_gets_short_sockets(tmp_path: Path) -> None:
    """A path that no unix socket can have moves to a short folder, always the same one."""
    plan = Plan(run=tmp_path / ("x" * 120))

    assert len(str(plan.sockets / "supervisor.sock")) <= 100
    assert plan.sockets == Plan(run=plan.run).sockets
    assert Plan(run=tmp_path / "y").sockets == tmp_path / "y"


def test_ports_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every port can be moved."""
    monkeypatch.setenv("GATEWAY_PORT", "18080")
    monkeypatch.setenv("REDIS_PORT", "")

    assert Plan().gateway_port == 18080
    assert Plan().redis_port == 6379


def test_taken_port_is_named_with_the_way_out(tmp_path: Path) -> None:
    """The error names the port and the variable that moves it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NotReadyToStartError, match=f"{port}.*ROUTER_PORT="):
            check(
                Plan(
                    run=tmp_path,
                    gateway_port=0,
                    redis_port=0,
                    metrics_port=0,
                    validation_port=0,
                    orchestrator_port=0,
                    router_port=port,
                )
            )


def test_configuration_escapes_and_restarts(tmp_path: Path) -> None:
    """A percent sign in a path survives supervisor's own expansion, and what dies is started."""
    text = configuration(Plan(run=tmp_path / "50%"))

    assert "50%%" in text
    assert text.count("autorestart=true") == 6

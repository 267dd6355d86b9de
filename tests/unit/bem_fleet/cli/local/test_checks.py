"""Preconditions of the local fleet."""

import socket
from pathlib import Path

import pytest
from bem_fleet.cli.local.checks import NotReadyToStartError, check, unknown_settings
from bem_fleet.cli.local.plan import Plan


def test_used_port_is_named_with_its_variable(tmp_path: Path) -> None:
    """The error names the port and the variable that moves it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        free = dict.fromkeys(Plan().ports, 0)
        with pytest.raises(NotReadyToStartError, match=f"{port}.*ROUTER_PORT="):
            check(Plan(run=tmp_path, ports={**free, "ROUTER_PORT": port}))


def test_all_used_ports_are_named_at_once(tmp_path: Path) -> None:
    """One command moves every port that another fleet holds."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = {"REDIS_PORT": one.getsockname()[1], "GATEWAY_PORT": two.getsockname()[1]}
        free = dict.fromkeys(Plan().ports, 0)
        with pytest.raises(NotReadyToStartError) as caught:
            check(Plan(run=tmp_path, ports={**free, **ports}))

    for variable, port in ports.items():
        assert f"{port}" in str(caught.value)
        assert f"{variable}={port + 1000}" in str(caught.value)


def test_free_machine_passes(tmp_path: Path) -> None:
    """With free ports and disk nothing is raised."""
    check(Plan(run=tmp_path, ports=dict.fromkeys(Plan().ports, 0)))


def test_unknown_settings_are_named_with_the_nearest(tmp_path: Path) -> None:
    """Names of every service are known; variables of tools and of others are passed over."""
    environment = {
        "BEM_ROUTER_ROW": "4",
        "BEM_MODEL": "x",
        "BEM_GATEWAY_ADDRESS": "127.0.0.1:1",
        "BEM_SAFETY_POLICY": "x",
        "BEM_CLUSTER_HOME": "x",
        "HOME": "x",
    }
    lines = unknown_settings(Plan(run=tmp_path), environment)

    assert len(lines) == 2
    assert lines[0].startswith("BEM_MODEL is no setting")
    assert lines[1].endswith("the nearest is BEM_ROUTER_ROWS")

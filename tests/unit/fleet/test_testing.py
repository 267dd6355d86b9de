"""Test fixtures."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from fleet import testing
from fleet.testing import RedisServer, free_port


def test_free_port_can_be_bound() -> None:
    """The port is free when it is returned."""
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_free_ports_are_not_the_kernels() -> None:
    """No connection gets the port as its source between the choice and the bind."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < first for _ in range(20))


def test_processes_get_different_ports() -> None:
    """Ports that were given out and are not bound yet go to nobody else."""
    program = "from fleet.testing import free_port\nprint(*(free_port() for _ in range(50)))"
    command = [sys.executable, "-c", program]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    given = [port for child in children for port in child.communicate()[0].split()]
    assert len(set(given)) == len(given) == 200


def test_used_port_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A port that somebody listens on is passed over, and none left is an error."""
    monkeypatch.setattr(testing, "CURSOR", tmp_path / "cursor")
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        monkeypatch.setattr(testing, "PORTS", range(port, port + 1))
        with pytest.raises(OSError, match=rf"no port from {port} to {port} is free"):
            free_port()


def test_redis_keeps_its_data_over_a_kill(redis_server: RedisServer) -> None:
    """A restarted server has what was acknowledged before."""
    with redis.from_url(redis_server.url) as client:
        client.set("key", "value")
    redis_server.kill()
    redis_server.start()
    with redis.from_url(redis_server.url) as client:
        assert client.get("key") == b"value"

"""Listeners: both address families, and IPv4 alone where the system has no IPv6."""

import socket
import urllib.request

import pytest
from bem_fleet.services.safety.metrics_page import SidecarMetricsServer
from fleet.listening import tcp_endpoint
from fleet.metrics import MetricsPage


def loopbacks() -> list[str]:
    """Return the loopback addresses of this machine, one for each family that it has."""
    host, _ = tcp_endpoint("[::]:0")
    return ["127.0.0.1", "[::1]"] if host == "::" else ["127.0.0.1"]


def fetched(port: int, path: str) -> list[int]:
    """Return the status of a page by each family."""
    urls = [f"http://{host}:{port}{path}" for host in loopbacks()]
    return [urllib.request.urlopen(url, timeout=10).status for url in urls]  # noqa: S310


def test_brackets_are_not_part_of_a_host() -> None:
    """Sockets take the bare address."""
    assert tcp_endpoint("127.0.0.1:80") == ("127.0.0.1", 80)
    assert tcp_endpoint("[::1]:80") == ("::1", 80)
    assert tcp_endpoint("localhost:80") == ("localhost", 80)
    with pytest.raises(ValueError, match="invalid literal"):
        tcp_endpoint("localhost:http")


def test_a_system_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose kernel has no IPv6 starts as well."""

    def refuse(*_: object) -> socket.socket:
        raise OSError("Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)

    assert tcp_endpoint("[::]:80") == ("0.0.0.0", 80)  # noqa: S104


async def test_pages_are_served_to_both_families() -> None:
    """The pages of services and of sidecars answer on IPv4 and IPv6 by one port."""
    page = MetricsPage("[::]:0")
    sidecar = SidecarMetricsServer("[::]:0", "unix:/nowhere")
    try:
        statuses = [*fetched(page.port, "/metrics"), *fetched(sidecar.port, "/metrics")]
    finally:
        page.close()
        await sidecar.close()

    assert set(statuses) == {200}

"""Health check of the images, against real servers."""

from pathlib import Path

import pytest
from fleet.metrics import MetricsPage
from fleet.server import App, start
from fleet.settings import FleetSettings

from docker.health_check import address_of, is_grpc_healthy, is_http_healthy


async def build_nothing(_: FleetSettings, app: App) -> None:
    """Build a service without servicers of its own."""
    app.serves_standard_services = True


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("0.0.0.0:50091", "127.0.0.1:50091"),
        ("[::]:50091", "localhost:50091"),
        ("unix:/run/bem/mission.sock", "unix:/run/bem/mission.sock"),
        ("", "127.0.0.1:50091"),
    ],
)
def test_address_is_that_of_the_service(
    monkeypatch: pytest.MonkeyPatch, setting: str, address: str
) -> None:
    """The check uses the address on which the service listens, or its default."""
    monkeypatch.setenv("BEM_VALIDATION_ADDRESS", setting)

    assert address_of("validation") == address


def test_plain_health_port_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service's own port has TLS, the check uses the port that has none."""
    monkeypatch.setenv("BEM_VALIDATION_ADDRESS", "0.0.0.0:50091")
    monkeypatch.setenv("BEM_VALIDATION_HEALTH_ADDRESS", "0.0.0.0:9465")

    assert address_of("validation") == "127.0.0.1:9465"


async def test_serving_process_is_healthy(tmp_path: Path) -> None:
    """A serving process is healthy; a stopped one is not."""
    import asyncio

    address = f"unix:{tmp_path}/mission.sock"
    running = await start(FleetSettings(address=address, drain_s=0), build_nothing, {})
    healthy = await asyncio.to_thread(is_grpc_healthy, address)
    await running.stop()

    assert healthy
    assert not await asyncio.to_thread(is_grpc_healthy, address)


def test_stopped_http_server_is_unhealthy() -> None:
    """A stopped HTTP server is unhealthy."""
    page = MetricsPage("127.0.0.1:0")
    page.close()

    assert not is_http_healthy(f"127.0.0.1:{page.port}")

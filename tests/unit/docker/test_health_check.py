"""The images' health check, against real servers."""

from pathlib import Path

import pytest
from fleet.metrics import MetricsPage
from fleet.server import App, start
from fleet.settings import FleetSettings

from docker.health_check import address_of, is_grpc_healthy, is_http_healthy


async def no_parts(_: FleetSettings, app: App) -> None:
    """A service without parts of its own."""
    app.serves_standard_services = True


@pytest.mark.parametrize(
    ("set_to", "asked"),
    [
        ("0.0.0.0:50091", "127.0.0.1:50091"),
        ("[::]:50091", "[::1]:50091"),
        ("unix:/run/bem/mission.sock", "unix:/run/bem/mission.sock"),
        ("", "127.0.0.1:50091"),
    ],
)
def test_address_is_the_services_own(
    monkeypatch: pytest.MonkeyPatch, set_to: str, asked: str
) -> None:
    """The check asks where the service listens, its default included."""
    monkeypatch.setenv("BEM_VALIDATION_ADDRESS", set_to)

    assert address_of("validation") == asked


async def test_serving_process_is_healthy(tmp_path: Path) -> None:
    """A server that answers is healthy, and is not once it has gone."""
    import asyncio

    address = f"unix:{tmp_path}/mission.sock"
    running = await start(FleetSettings(address=address, drain_s=0), no_parts, {})
    healthy = await asyncio.to_thread(is_grpc_healthy, address)
    await running.stop()

    assert healthy
    assert not await asyncio.to_thread(is_grpc_healthy, address)


def test_other_page_is_not_health() -> None:
    """An HTTP server that has gone is not healthy."""
    page = MetricsPage("127.0.0.1:0")
    page.close()

    assert not is_http_healthy(f"127.0.0.1:{page.port}")

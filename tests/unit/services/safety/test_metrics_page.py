"""Metrics pages of the sidecar."""

import httpx
import pytest
from bem_fleet.services.safety.metrics_page import SidecarMetricsServer
from fleet.server import App, start
from fleet.settings import FleetSettings


def read(port: int, path: str, accept: str = "") -> str:
    """Return the body of a page."""
    response = httpx.get(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept}, timeout=10)
    return response.raise_for_status().text


async def test_both_pages_are_served(tmp_path: object) -> None:
    """The sidecar's own metrics and the mission's, which is scraped over gRPC."""
    import asyncio

    async def mission(_settings: FleetSettings, _app: App) -> None:
        """Serve the standard services only."""

    upstream = await start(FleetSettings(address=f"unix:{tmp_path}/m.sock", drain_s=0), mission, {})
    server = SidecarMetricsServer("127.0.0.1:0", upstream.address)
    own = await asyncio.to_thread(read, server.port, "/metrics")
    other = await asyncio.to_thread(read, server.port, "/upstream/metrics")
    openmetrics = "application/openmetrics-text;version=1.0.0"
    third = await asyncio.to_thread(read, server.port, "/upstream/metrics", openmetrics)
    await upstream.stop()
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        await asyncio.to_thread(read, server.port, "/upstream/metrics")
    await server.close()

    assert "bem_fleet_rpc_seconds" in own
    assert "bem_fleet_rpc_seconds" in other
    assert "# EOF" not in other
    assert third.endswith("# EOF\n")

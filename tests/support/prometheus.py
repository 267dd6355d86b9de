"""A Prometheus server as a process, and a client of its HTTP API."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fleet.testing import free_port

_START_S = 60.0


class Prometheus:
    """HTTP API client of a running Prometheus.

    Args:
        address: Address of the server, ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=30)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ready(self) -> bool:
        """Return whether the server answers."""
        try:
            return self._client.get("/status/runtimeinfo").is_success
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query.

        Raises:
            httpx.HTTPStatusError: The query is invalid.
        """
        response = self._client.get("/query", params={"query": expression})
        response.raise_for_status()
        series: list[dict[str, Any]] = response.json()["data"]["result"]
        return series

    def exemplars(self, expression: str, since_s: float) -> set[str]:
        """Return the ids of the traces that exemplars of the last seconds name."""
        now = time.time()
        span = {"query": expression, "start": str(now - since_s), "end": str(now)}
        response = self._client.get("/query_exemplars", params=span)
        response.raise_for_status()
        series = response.json()["data"]
        return {one["labels"]["trace_id"] for found in series for one in found["exemplars"]}

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerting rules with state and health."""
        groups = self._client.get("/rules", params={"type": "alert"}).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {rule["name"] for rule in self.alerts() if rule["state"] == "firing"}


@contextmanager
def prometheus_server(
    binary: str, folder: Path, configuration: dict[str, Any]
) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends.

    Args:
        binary: Path of Prometheus.
        folder: Folder of its configuration, data and log.
        configuration: What its configuration file says.

    Raises:
        RuntimeError: It does not start; the message is the end of its log.
    """
    file, log_file = folder / "prometheus.yml", folder / "prometheus.log"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--enable-feature=exemplar-storage",
        f"--web.listen-address={address}",
    ]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server, limit = Prometheus(address), time.monotonic() + _START_S
    try:
        while not server.ready():
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(log_file.read_text()[-2000:])
            time.sleep(0.2)  # another program: there is no event to wait for
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait()

"""A real Prometheus that scrapes an installed fleet as the chart's monitors say.

Debian's package is built without Kubernetes' discovery, so that pods are found here, by the labels
and ports of the monitors, and handed over in a file.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from fleet.testing import free_port

from tests.charts.rendering import CHART, objects, render
from tests.cluster.kubernetes_cli import TOOL, CommandError, Release, run


class Prometheus:
    """A running Prometheus.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=30)

    def ready(self) -> bool:
        """Return whether it answers."""
        try:
            return self._client.get("/status/runtimeinfo").is_success
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an instant query finds.

        Raises:
            httpx.HTTPStatusError: It is no valid query.
        """
        found = self._client.get("/query", params={"query": expression})
        found.raise_for_status()
        series: list[dict[str, Any]] = found.json()["data"]["result"]
        return series

    def alerts(self) -> list[dict[str, Any]]:
        """Return the rules with their state and health."""
        found = self._client.get("/rules").json()["data"]["groups"]
        return [rule for group in found for rule in group["rules"]]


@dataclass(frozen=True)
class Job:
    """What one endpoint of a ServiceMonitor or PodMonitor asks for.

    Attributes:
        name: Of the scrape job.
        labels: Of the pods.
        port: Name of their container's port.
        path: Of the page.
    """

    name: str
    labels: dict[str, str]
    port: str
    path: str

    def scrape(self, targets: Path) -> dict[str, Any]:
        """Return the scrape job, whose targets stand in a folder's file."""
        return {
            "job_name": self.name,
            "metrics_path": self.path,
            "scrape_interval": "3s",
            "file_sd_configs": [{"files": [str(self.file(targets))], "refresh_interval": "2s"}],
        }

    def file(self, targets: Path) -> Path:
        """Return the file of the targets."""
        return targets / f"{self.name.replace('/', '_')}.json"

    def targets(self, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the targets among pods."""
        return [
            {
                "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
                "labels": {
                    "namespace": pod["metadata"]["namespace"],
                    "pod": pod["metadata"]["name"],
                },
            }
            for pod in pods
            if self.labels.items() <= pod["metadata"]["labels"].items()
            and pod["status"].get("podIP")
            for kind in ("initContainers", "containers")
            for container in pod["spec"].get(kind, ())
            for port in container.get("ports", ())
            if port.get("name") == self.port
        ]


def jobs() -> list[Job]:
    """Return the scrape jobs that the chart's ServiceMonitors and PodMonitors describe."""
    values = CHART / "ci" / "cpu-values.yaml"
    shown = objects(render(values, "monitoring.monitors.enabled=true"))
    return [
        Job(
            f"{monitor['metadata']['name']}{endpoint['path']}",
            monitor["spec"]["selector"]["matchLabels"],
            endpoint["port"],
            endpoint["path"],
        )
        for monitor in shown
        if monitor["kind"].endswith("Monitor")
        for kind in ("endpoints", "podMetricsEndpoints")
        for endpoint in monitor["spec"].get(kind, ())
    ]


@contextmanager
def discovery(release: Release, wanted: list[Job], targets: Path) -> Iterator[None]:
    """Write the pods that are there into the jobs' files, again and again until the block ends."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(2):
            try:
                pods = release.objects("pods")
            except CommandError:  # the API server is away for a moment
                continue
            for job in wanted:
                scratch = job.file(targets).with_suffix(".new")
                scratch.write_text(json.dumps(job.targets(pods)))
                scratch.replace(job.file(targets))

    following = threading.Thread(target=follow, name="discovery")
    following.start()
    try:
        yield
    finally:
        ended.set()
        following.join()


@contextmanager
def prometheus(release: Release, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus with the chart's rules until the block ends."""
    binary = Path(run(TOOL, "prometheus", timeout_s=300).strip()) / "prometheus"
    wanted = jobs()
    config = {
        "global": {"evaluation_interval": "3s"},
        "rule_files": [str(CHART / "rules" / "*.yaml")],
        "scrape_configs": [job.scrape(folder) for job in wanted],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(binary),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        made, limit = Prometheus(address), time.monotonic() + 60
        while not made.ready():
            if process.poll() is not None or time.monotonic() > limit:
                raise CommandError((folder / "prometheus.log").read_text()[-2000:])
            time.sleep(0.2)  # another program: there is no event to wait for
        with discovery(release, wanted, folder):
            yield made
    finally:
        process.terminate()
        process.wait()


def panels() -> Iterator[tuple[str, str]]:
    """Yield board and query of every panel."""
    for path in sorted((CHART / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield path.stem, target["expr"]

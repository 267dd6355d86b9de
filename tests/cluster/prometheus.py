"""Prometheus server that scrapes an installed fleet as the chart's monitors describe.

Debian's package is built without Kubernetes service discovery. Pods are therefore selected here, by
the labels and ports of the chart's ServiceMonitors and PodMonitors, and written to target files.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.charts.rendering import CHART, objects, render
from tests.cluster.kubernetes_cli import CLUSTER_TOOL, CommandError, Release, run
from tests.support.prometheus import Prometheus, prometheus_server


@dataclass(frozen=True)
class ScrapeJob:
    """Scrape job of one endpoint of a ServiceMonitor or PodMonitor.

    Attributes:
        name: Name of the job.
        labels: Labels that select the pods.
        port: Name of the container port.
        path: Path of the metrics page.
        process: Label ``process`` of its series.
    """

    name: str
    labels: dict[str, str]
    port: str
    path: str
    process: str

    def config(self, targets: Path) -> dict[str, Any]:
        """Return the job's entry of ``scrape_configs``."""
        return {
            "job_name": self.name,
            "metrics_path": self.path,
            "scrape_interval": "3s",
            "file_sd_configs": [
                {"files": [str(self.target_file(targets))], "refresh_interval": "2s"}
            ],
        }

    def target_file(self, targets: Path) -> Path:
        """Return the path of the job's target file."""
        return targets / f"{self.name.replace('/', '_')}.json"

    def targets(self, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the pods that the job scrapes, as entries of its target file."""
        return [
            {
                "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
                "labels": {
                    "namespace": pod["metadata"]["namespace"],
                    "pod": pod["metadata"]["name"],
                    "process": self.process,
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


def scrape_jobs() -> list[ScrapeJob]:
    """Return the scrape jobs that the chart's ServiceMonitors and PodMonitors describe."""
    values = CHART / "ci" / "cpu-values.yaml"
    rendered = objects(render(values, "monitoring.monitors.enabled=true"))
    return [
        ScrapeJob(
            f"{monitor['metadata']['name']}{endpoint['path']}",
            monitor["spec"]["selector"]["matchLabels"],
            endpoint["port"],
            endpoint["path"],
            endpoint["relabelings"][0]["replacement"],
        )
        for monitor in rendered
        if monitor["kind"].endswith("Monitor")
        for kind in ("endpoints", "podMetricsEndpoints")
        for endpoint in monitor["spec"].get(kind, ())
    ]


@contextmanager
def target_discovery(release: Release, jobs: list[ScrapeJob], targets: Path) -> Iterator[None]:
    """Refresh the target files every two seconds until the block ends."""
    stop = threading.Event()

    def refresh() -> None:
        while not stop.wait(2):
            try:
                pods = release.objects("pods")
            except CommandError:  # the API server is restarting
                continue
            for job in jobs:
                scratch = job.target_file(targets).with_suffix(".new")
                scratch.write_text(json.dumps(job.targets(pods)))
                scratch.replace(job.target_file(targets))

    refreshing = threading.Thread(target=refresh, name="target-discovery")
    refreshing.start()
    try:
        yield
    finally:
        stop.set()
        refreshing.join()


@contextmanager
def run_prometheus(release: Release, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the chart's rules until the block ends."""
    binary = Path(run(CLUSTER_TOOL, "prometheus", timeout_s=300).strip()) / "prometheus"
    jobs = scrape_jobs()
    configuration = {
        "global": {"evaluation_interval": "3s"},
        "rule_files": [str(CHART / "rules" / "*.yaml")],
        "scrape_configs": [job.config(folder) for job in jobs],
    }
    with (
        prometheus_server(str(binary), folder, configuration) as server,
        target_discovery(release, jobs, folder),
    ):
        yield server


def panel_queries() -> Iterator[tuple[str, str]]:
    """Yield the dashboard's name and the query of every panel."""
    for path in sorted((CHART / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield path.stem, target["expr"]

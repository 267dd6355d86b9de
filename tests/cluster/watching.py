"""A real Prometheus that scrapes an installed fleet as the chart's monitors say."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from fleet.testing import free_port

from tests.charts.rendering import CHART, objects, render
from tests.cluster.kubernetes_cli import TOOL, CommandError, Release, environment, run

_LABEL = "__meta_kubernetes_pod_label_app_kubernetes_io_"


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


def scrapes(release: Release) -> list[dict[str, Any]]:
    """Return the scrape jobs that the chart's ServiceMonitors and PodMonitors describe."""
    values = CHART / "ci" / "cpu-values.yaml"
    shown = objects(render(values, "monitoring.monitors.enabled=true"))
    monitors = [each for each in shown if each["kind"].endswith("Monitor")]
    return [
        _job(release, monitor, endpoint)
        for monitor in monitors
        for endpoint in monitor["spec"].get("endpoints")
        or monitor["spec"].get("podMetricsEndpoints")
    ]


def _job(release: Release, monitor: dict[str, Any], endpoint: dict[str, Any]) -> dict[str, Any]:
    selected = monitor["spec"]["selector"]["matchLabels"]
    labels = {_LABEL + key.rpartition("/")[2]: value for key, value in selected.items()}
    labels["__meta_kubernetes_pod_container_port_name"] = endpoint["port"]
    kept = [
        {"source_labels": [name], "regex": value, "action": "keep"}
        for name, value in labels.items()
    ]
    named = [
        {"source_labels": [f"__meta_kubernetes_{what}"], "target_label": label}
        for what, label in (("namespace", "namespace"), ("pod_name", "pod"))
    ]
    seen = {
        "role": "pod",
        "kubeconfig_file": environment()["KUBECONFIG"],
        "namespaces": {"names": [release.namespace]},
    }
    return {
        "job_name": f"{monitor['metadata']['name']}{endpoint['path']}",
        "metrics_path": endpoint["path"],
        "scrape_interval": "3s",
        "kubernetes_sd_configs": [seen],
        "relabel_configs": [*kept, *named],
    }


@contextmanager
def prometheus(release: Release, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus with the chart's rules until the block ends."""
    binary = Path(run(TOOL, "prometheus", timeout_s=300).strip()) / "prometheus"
    config = {
        "global": {"evaluation_interval": "3s"},
        "rule_files": [str(CHART / "rules" / "*.yaml")],
        "scrape_configs": scrapes(release),
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

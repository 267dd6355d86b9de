"""Prometheus beside the local fleet: configuration from the plan, and the process."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.local.supervision import SCRAPE_TARGETS

ADDRESS = "127.0.0.1:9090"
"""Default listen address, which the gateway's dashboard page asks for alerts."""

_RULES = ROOT / "charts" / "rules"
_INTERVAL = "5s"
# Labels are sets of adapters, which endpoint pickers read from the page; each would be a series.
_UNBOUNDED = "vllm:lora_requests_info"


class PrometheusMissingError(RuntimeError):
    """There is no Prometheus on this machine; the message says how to get one."""


def prometheus_configuration(plan: Plan) -> dict[str, Any]:
    """Return Prometheus' configuration: the fleet's pages and the chart's alerting rules.

    Args:
        plan: Plan of the fleet, whose run folder holds the targets once it has started.
    """
    return {
        "global": {"scrape_interval": _INTERVAL, "evaluation_interval": _INTERVAL},
        "rule_files": [str(_RULES / "*.yaml")],
        "scrape_configs": [
            {
                "job_name": "bem-fleet",
                "file_sd_configs": [{"files": [str(plan.run / SCRAPE_TARGETS)]}],
                "metric_relabel_configs": [
                    {"source_labels": ["__name__"], "regex": _UNBOUNDED, "action": "drop"}
                ],
            }
        ],
    }


def find_prometheus() -> str:
    """Return the path of Prometheus: on PATH, else what the local cluster's tool has fetched.

    Raises:
        PrometheusMissingError: It is in neither place.
    """
    fetched = Path(os.environ.get("BEM_CLUSTER_HOME") or Path.home() / ".cache/bem-fleet-cluster")
    for path in (shutil.which("prometheus"), fetched / "bin" / "prometheus"):
        if path and os.access(path, os.X_OK):
            return str(path)
    raise PrometheusMissingError(
        "prometheus: not found on PATH; run `make prometheus`, which fetches Debian's package "
        "without installing it, or `apt-get install prometheus`"
    )


def monitoring_command(plan: Plan, address: str = ADDRESS) -> list[str]:
    """Write the configuration and return the command line of Prometheus.

    Args:
        plan: Plan of the fleet.
        address: Listen address, ``host:port``.

    Raises:
        PrometheusMissingError: There is no Prometheus.
    """
    executable = find_prometheus()
    folder = plan.run / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    # JSON is YAML, and what a person reads here is short.
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(prometheus_configuration(plan), indent=1))
    return [
        executable,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--enable-feature=exemplar-storage",
        "--storage.tsdb.retention.time=7d",
        f"--web.listen-address={address}",
    ]


def run_monitoring(plan: Plan, address: str = ADDRESS) -> int:
    """Run Prometheus in the place of this process until it is interrupted.

    Returns:
        1 if there is no Prometheus, or no fleet has been started in the run folder.
    """
    if not (plan.run / SCRAPE_TARGETS).exists():
        print("no fleet has been started here; run `make up` first")
        return 1
    try:
        command = monitoring_command(plan, address)
    except PrometheusMissingError as err:
        print(err)
        return 1
    print(f"Prometheus at http://{address}/; Ctrl-C ends it", flush=True)
    return os.execv(command[0], command)  # noqa: S606 - replaces this process

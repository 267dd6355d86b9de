"""The chart's rules at a higher speed, evaluated by a real Prometheus over pages of the test."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.charts.rendering import CHART
from tests.support.prometheus import Prometheus, prometheus_server
from tests.support.requirements import require
from tests.support.waiting import eventually

SPEED = 120
"""Factor by which all durations of the rules are shorter: an hour takes 30 s."""

_INTERVAL = "500ms"  # five samples in the rules' shortest window
_FIRST_S = 60.0
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(?<=\[)(\d+)([smh])(?=\])|(?<=offset )(\d+)([smh])\b")


def hastened(rule: Mapping[str, Any], speed: int) -> dict[str, Any]:
    """Return a rule whose windows, offsets and waiting time are shorter; limits stay."""

    def shorter(found: re.Match[str] | None) -> str:
        assert found is not None
        number, unit = (part for part in found.groups() if part is not None)
        return f"{int(number) * _SECONDS[unit] * 1000 // speed}ms"

    made = {**rule, "expr": _DURATION.sub(shorter, rule["expr"])}
    if "for" in rule:
        made["for"] = shorter(re.fullmatch(r"(\d+)([smh])", rule["for"]))
    return made


@asynccontextmanager
async def run_hastened_rules(
    folder: Path, pages: Mapping[str, str], *, speed: int = SPEED
) -> AsyncIterator[Prometheus]:
    """Run Prometheus with the hastened rules until the block ends; it has read each page once.

    Args:
        folder: Folder of its files.
        pages: ``host:port/path`` of each process's metrics page by the name of the process.
        speed: Factor by which all durations of the rules are shorter.
    """
    groups = yaml.safe_load((CHART / "rules" / "fleet.yaml").read_text())["groups"]
    rules = folder / "rules.yml"
    made = [{**one, "rules": [hastened(rule, speed) for rule in one["rules"]]} for one in groups]
    rules.write_text(json.dumps({"groups": made}))
    targets = [
        {
            "targets": [page.partition("/")[0]],
            "labels": {
                "__metrics_path__": f"/{page.partition('/')[2]}",
                "namespace": "local",
                "pod": name,
                "process": name,
            },
        }
        for name, page in pages.items()
    ]
    configuration = {
        "global": {
            "scrape_interval": _INTERVAL,
            "scrape_timeout": _INTERVAL,
            "evaluation_interval": _INTERVAL,
        },
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "bem-fleet", "static_configs": targets}],
    }
    with prometheus_server(require("prometheus"), folder, configuration) as server:
        await eventually(lambda: len(server.query("up == 1")) == len(pages), _FIRST_S)
        yield server

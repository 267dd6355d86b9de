"""Pictures of the dashboards' panels: ``python -m tools.panel_images``.

Asks a running Prometheus (``make monitoring`` beside ``make up``) for what each panel of each
dashboard shows, and draws it by matplotlib. Grafana itself is not needed, so that the pictures in
the documentation are of real data on any machine.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.monitoring import ADDRESS
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DASHBOARDS, IMAGES = ROOT / "charts/dashboards", ROOT / "docs/images"
COLUMNS, PANEL_INCHES, DPI = 4, (3.6, 2.1), 80
# Lines of a panel that are named; the others are drawn without a name.
NAMED_LINES = 5
_STEP_S = 5
_LABEL = re.compile(r"\{\{(\w+)\}\}")


class PanelSource:
    """Panels' data in a Prometheus.

    Args:
        client: HTTP client of its API, ``http://host:port/api/v1``.
        namespace: Value of the dashboards' variable.
        seconds: Length of the time that is drawn, up to now.
    """

    def __init__(self, client: httpx.Client, namespace: str, seconds: float) -> None:
        self._client, self._namespace, self._seconds = client, namespace, seconds

    def series(self, target: Mapping[str, Any]) -> list[tuple[str, list[tuple[float, float]]]]:
        """Return name and points (minutes from now, value) of each line of a panel's target.

        Raises:
            httpx.HTTPStatusError: The query is refused.
        """
        now = time.time()
        response = self._client.get(
            "/query_range",
            params={
                "query": target["expr"].replace("$namespace", self._namespace),
                "start": now - self._seconds,
                "end": now,
                "step": _STEP_S,
            },
        )
        response.raise_for_status()
        legend = str(target.get("legendFormat") or "")
        return [
            (
                _line_name(legend, one["metric"]),
                [((at - now) / 60, float(value)) for at, value in one["values"]],
            )
            for one in response.json()["data"]["result"]
        ]


def _line_name(legend: str, labels: Mapping[str, str]) -> str:
    return _LABEL.sub(lambda found: labels.get(found.group(1), ""), legend)


def draw(dashboard: Mapping[str, Any], source: PanelSource, path: Path) -> int:
    """Draw all panels of a dashboard into one picture; return the number of those with data."""
    panels: Sequence[Mapping[str, Any]] = dashboard["panels"]
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL_INCHES
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(width * COLUMNS, height * rows), squeeze=False, layout="constrained"
    )
    figure.suptitle(f"{dashboard['title']} (minutes from now)", x=0.01, ha="left", fontsize=13)
    shown = sum(
        _draw_panel(place, one, source) for place, one in zip(axes.flat, panels, strict=False)
    )
    for place in axes.flat[len(panels) :]:
        place.set_visible(False)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return shown


def _draw_panel(axes: Axes, panel: Mapping[str, Any], source: PanelSource) -> bool:
    lines = [line for target in panel["targets"] for line in source.series(target)]
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    title = panel["title"] if unit == "short" else f"{panel['title']} [{unit}]"
    axes.set_title(title, fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    if not lines:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="0.5", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        return False
    for number, (name, points) in enumerate(lines):
        times, values = zip(*points, strict=True)
        axes.plot(times, values, linewidth=1.1, label=name if number < NAMED_LINES else None)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if any(name for name, _ in lines):
        axes.legend(fontsize=6, frameon=False, loc="upper left")
    axes.grid(visible=True, linewidth=0.3)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the dashboards; exit code 1 if one of them has no data at all."""
    parser = argparse.ArgumentParser(prog="python -m tools.panel_images", description=__doc__)
    parser.add_argument("--prometheus", default=f"http://{ADDRESS}")
    parser.add_argument("--namespace", default="local")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=IMAGES)
    options = parser.parse_args(arguments)
    mpl.use("agg")
    empty = []
    with httpx.Client(base_url=f"{options.prometheus}/api/v1", timeout=30) as client:
        source = PanelSource(client, options.namespace, 60 * options.minutes)
        for file in sorted(DASHBOARDS.glob("*.json")):
            dashboard = json.loads(file.read_text())
            shown = draw(dashboard, source, options.out / f"dashboard_{file.stem}.png")
            sys.stdout.write(f"{file.stem}: {shown} of {len(dashboard['panels'])} panels\n")
            empty += [] if shown else [file.stem]
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())

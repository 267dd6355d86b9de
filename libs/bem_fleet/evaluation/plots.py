"""Plots of an evaluation report: differences with intervals, categories and training seeds."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_MISSION_COLOUR, _BASELINE_COLOUR = "#1f6f8b", "#c98a2b"
_DPI = 110


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Write the plots as PNG; the same report gives the same bytes.

    Args:
        report: Report of ``pipeline.evaluate``.
        path: PNG file to write.
    """
    pairs = [report, *report["others"]]
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _plot_differences(left, pairs)
    _plot_categories(middle, report)
    _plot_seeds(right, pairs)
    figure.suptitle(f"{report['id']}: {report['n_items']} items, {report['data']['name']}")
    # Without program version in the metadata, equal plots are equal files.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _plot_differences(axes: Axes, pairs: list[dict[str, Any]]) -> None:
    rows = [
        (f"{name}\nvs {pair['baseline']['name']}", metric)
        for pair in pairs
        for name, metric in pair["metrics"].items()
    ]
    for place, (_, metric) in enumerate(reversed(rows)):
        if metric["ci_low"] is not None:
            axes.plot(
                [metric["ci_low"], metric["ci_high"]], [place] * 2, color=_MISSION_COLOUR, lw=3
            )
        axes.plot(metric["estimate"], place, "o", color=_MISSION_COLOUR)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [label for label, _ in reversed(rows)], fontsize=7)
    axes.set_title("difference, 95 % CI", fontsize=9)


def _plot_categories(axes: Axes, report: dict[str, Any]) -> None:
    metric = next(iter(report["metrics"]))
    table = report["categories"] or {"all": {metric: _all_items_row(report, metric)}}
    names = list(table)
    places = np.arange(len(names))
    for role, shift, colour in (
        ("mission", -0.2, _MISSION_COLOUR),
        ("baseline", 0.2, _BASELINE_COLOUR),
    ):
        heights = [table[name][metric][role] for name in names]
        axes.bar(places + shift, heights, 0.4, color=colour, label=report[role]["name"])
    labels = [f"{name}\nn={table[name][metric]['n_items']}" for name in names]
    axes.set_xticks(places, labels, fontsize=7)
    axes.set_title(f"{metric} by category", fontsize=9)
    axes.legend(fontsize=7)


def _all_items_row(report: dict[str, Any], metric: str) -> dict[str, float]:
    row = report["metrics"][metric]
    means = {role: float(np.mean(row[role])) for role in ("mission", "baseline")}
    return {"n_items": report["n_items"], **means}


def _plot_seeds(axes: Axes, pairs: list[dict[str, Any]]) -> None:
    metrics = list(pairs[0]["metrics"])
    sides = [("mission", pairs[0]), *(("baseline", pair) for pair in pairs)]
    for place, (role, pair) in enumerate(sides):
        for shift, metric in enumerate(metrics):
            runs = np.atleast_2d(pair["metrics"][metric][role]).mean(axis=1)
            spread = [place + 0.2 * (shift - 1)] * len(runs)
            axes.plot(spread, runs, "o", color=f"C{shift}", label="" if place else metric)
    axes.set_xticks(range(len(sides)), [pair[role]["name"] for role, pair in sides], fontsize=7)
    axes.tick_params(axis="x", rotation=15)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title("mean of each training seed", fontsize=9)
    axes.legend(fontsize=7)

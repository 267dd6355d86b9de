"""Recorded traces of the real model (``record_traces``), resampled for every canary."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from bem_fleet.stats.samples import FloatArray

FILE = Path(__file__).with_name("recorded_traces.json")
ARMS = ("first", "second", "worse")


@cache
def load_traces() -> dict[str, dict[str, FloatArray]]:
    """Return by arm ``quality`` (exact match), ``latency`` in s and ``violation`` (bad form)."""
    found = json.loads(FILE.read_text())
    return {
        arm: {name: np.array(values, dtype=np.float64) for name, values in found[arm].items()}
        for arm in ARMS
    }


def stable_level(name: str, quantile: float | None = None) -> float:
    """Return the mean, or a quantile, of a metric over both arms of the adapter."""
    values = np.concatenate([load_traces()[arm][name] for arm in ARMS[:2]])
    return float(values.mean() if quantile is None else np.quantile(values, quantile))


def draw_sides(
    rng: np.random.Generator, size: tuple[int, int], gain: float
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return canary and stable, each metric [seeds, requests].

    Each request is a recorded item; which sampling seed answers for which arm is drawn, so that
    the arms are exchangeable. A canary below 0 of ``gain`` hands so many requests to the worse
    system that its exact match falls by as much.
    """
    arms = load_traces()
    items = rng.integers(0, len(arms["first"]["quality"]), size)
    swapped = rng.random(size) < 0.5
    drop = stable_level("quality") - arms["worse"]["quality"].mean()
    worse = rng.random(size) < -gain / drop
    canary, stable = {}, {}
    for name in ("quality", "latency", "violation"):
        first, second = arms["first"][name][items], arms["second"][name][items]
        stable[name] = np.where(swapped, first, second)
        own = np.where(swapped, second, first)
        canary[name] = np.where(worse, arms["worse"][name][items], own) if gain < 0 else own
    # Neither system fails to answer.
    for side in (canary, stable):
        side["error"] = np.zeros(size)
    return canary, stable

"""Tests of weight-format autotuning."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bem.backbone import WeightFormat
from bem.engine import weight_autotune
from bem.engine.linear import LinearLayer
from bem.engine.weight_autotune import (
    MAX_PERPLEXITY_RATIO,
    ROWS,
    benchmark_formats,
    select_format,
)
from bem.testing import tiny_backbone

from tests.unit.bem.engine.native.kernels import library


def exact(_: WeightFormat) -> float:
    """Perplexity of formats that lose nothing."""
    return 1.0


def time_by_bytes(monkeypatch: pytest.MonkeyPatch, *, smaller_is_faster: bool = True) -> None:
    """Let the time of a product follow the size of its weights."""

    def milliseconds(layers: list[LinearLayer], _: object) -> float:
        size = float(layers[0].weight_bytes)
        return size if smaller_is_faster else 1e6 / size

    monkeypatch.setattr(weight_autotune, "_milliseconds", milliseconds)


def test_auto_selects_one_of_the_measured_formats(tmp_path: Path) -> None:
    """The choice was timed at each number of rows, and its perplexity is near float32's."""
    memo = tmp_path / "perplexity.json"
    selected, report = select_format(tiny_backbone(), "auto", perplexity_memo=memo)

    assert report.kind in report.milliseconds
    assert all(len(times) == len(ROWS) for times in report.milliseconds.values())
    assert selected.weight_format == report.kind
    assert report.kernels.startswith("native" if selected.kernels else "torch: ")
    if report.kind != "fp32":
        assert report.perplexity_ratios[report.kind] <= MAX_PERPLEXITY_RATIO
        assert memo.exists()


@pytest.mark.parametrize(
    ("int8", "selected"),
    [(1.73, "int4"), (1.0, "int4"), (0.87, "int4"), (0.81, "int4"), (0.75, "int8")],
)
def test_preferred_format_is_selected_unless_another_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, int8: float, selected: WeightFormat
) -> None:
    """Noise around a tie changes nothing, so that replicas serve the same format."""
    times = {"fp32": 9.0, "int8": int8, "int4": 1.0}
    monkeypatch.setattr(weight_autotune, "_layers", lambda _, kind: [kind])
    monkeypatch.setattr(weight_autotune, "_milliseconds", lambda layers, _: times[layers[0]])
    kernels: Any = object()

    choice = benchmark_formats(replace(tiny_backbone(), kernels=kernels), "native", exact)

    assert choice.kind == selected
    assert choice.milliseconds["int8"] == (int8,) * len(ROWS)


@pytest.mark.parametrize("ratio", [1.0101, math.nan, math.inf])
def test_a_format_that_loses_quality_is_not_selected(
    monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    """The next fastest takes its place; float32 is always allowed."""
    time_by_bytes(monkeypatch)
    backbone = replace(tiny_backbone(), kernels=library())

    kept = benchmark_formats(backbone, "torch", lambda _: 1.01)
    lost = benchmark_formats(backbone, "torch", lambda _: ratio)

    assert (kept.kind, list(kept.perplexity_ratios)) == ("int4", ["int4"])
    assert (lost.kind, list(lost.perplexity_ratios)) == ("fp32", ["int4", "int8"])


def test_quality_is_not_measured_where_float32_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start on a machine without fast quantised products takes no longer."""
    time_by_bytes(monkeypatch, smaller_is_faster=False)

    choice = benchmark_formats(tiny_backbone(), "torch", exact)

    assert (choice.kind, choice.perplexity_ratios) == ("fp32", {})


def test_outputs_that_depend_on_the_batch_are_not_selected() -> None:
    """Without the project's kernels auto leaves all formats with rounded inputs out."""
    choice = benchmark_formats(tiny_backbone(), "torch", exact)

    assert set(choice.milliseconds) == {"fp32"}


def test_a_given_format_is_not_measured() -> None:
    """A configured format is taken as it is."""
    selected, report = select_format(tiny_backbone(), "fp32")

    assert (selected.weight_format, report.milliseconds) == ("fp32", {})
    assert report.perplexity_ratios == {}
    assert report.kernels == weight_autotune.UNUSED

"""Tests of weight-format autotuning."""

import pytest
from bem.engine import weight_autotune
from bem.engine.linear import LinearLayer
from bem.engine.weight_autotune import ROWS, benchmark_formats, select_format
from bem.testing import tiny_backbone


def test_auto_selects_one_of_the_measured_formats() -> None:
    """The choice is among the formats that were timed at each number of rows."""
    backbone = tiny_backbone()
    choice = benchmark_formats(backbone, "torch")
    selected, report = select_format(backbone, "auto")

    assert choice.kind in choice.milliseconds
    assert all(len(times) == len(ROWS) for times in choice.milliseconds.values())
    assert selected.weight_format == report.kind
    assert report.kernels.startswith("native" if selected.kernels else "torch: ")


def test_the_smallest_of_equally_fast_formats_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats within a tenth count as equally fast; then the smallest weights win."""
    sizes: list[int] = []

    def equal(layers: list[LinearLayer], _: object) -> float:
        sizes.append(layers[0].weight_bytes)
        return 1.0 if len(sizes) % 2 else 1.05

    monkeypatch.setattr(weight_autotune, "_milliseconds", equal)
    choice = benchmark_formats(tiny_backbone(), "torch")

    assert sizes[list(choice.milliseconds).index(choice.kind) * len(ROWS)] == min(sizes)


def test_a_given_format_is_not_measured() -> None:
    """A configured format is taken as it is."""
    selected, report = select_format(tiny_backbone(), "fp32")

    assert (selected.weight_format, report.milliseconds) == ("fp32", {})
    assert report.kernels == weight_autotune.UNUSED

"""Tests of the plot of a training curve."""

from pathlib import Path

from bem.journal import Journal
from bem.training.safety.plots import plot_curve


def test_equal_curves_give_equal_files(tmp_path: Path) -> None:
    """The PNG holds no date and no software version; categories may miss in a step."""
    rows = [
        {"violations": {"harm": 0.9}, "multipliers": {"harm": 1.0, "bias": 1.0}, "kl": 0.0},
        {"violations": {"bias": 0.5}, "multipliers": {"harm": 1.0, "bias": 0.9}, "kl": 0.1},
    ]
    curve = Journal(tmp_path / "curve.jsonl")
    curve.add(*({"step": step, **row} for step, row in enumerate(rows)))
    pictures = [tmp_path / "one.png", tmp_path / "two.png"]
    for picture in pictures:
        plot_curve(tmp_path / "curve.jsonl", picture, epsilon=0.15)

    assert pictures[0].read_bytes()[:4] == b"\x89PNG"
    assert pictures[0].stat().st_size > 1000
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_empty_curve_is_plotted(tmp_path: Path) -> None:
    """A run that has no step yet gives an empty plot."""
    Journal(tmp_path / "curve.jsonl").add()
    plot_curve(tmp_path / "curve.jsonl", tmp_path / "empty.png", epsilon=0.15)

    assert (tmp_path / "empty.png").is_file()

"""Plot of a Lagrangian training curve: violations, multipliers and KL divergence by step."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bem.journal import Journal

SMOOTHING = 0.8


def plot_curve(curve: Path, picture: Path, epsilon: float) -> None:
    """Plot ``curve.jsonl``; violations are smoothed by an exponential moving average of 0.8.

    Args:
        curve: Curve that the trainer wrote.
        picture: PNG file to write.
        epsilon: Bound of the violations, drawn as a line.
    """
    rows = list(Journal(curve).rows())
    figure = Figure(figsize=(9, 7), layout="constrained")
    violations, multipliers, divergence = figure.subplots(3, 1, sharex=True)
    for name in sorted({name for row in rows for name in row["violations"]}):
        steps = [row["step"] for row in rows if name in row["violations"]]
        values = [row["violations"][name] for row in rows if name in row["violations"]]
        violations.plot(steps, _smooth(values), label=name)
    violations.axhline(epsilon, color="black", linestyle=":", label="epsilon")
    violations.set_ylabel("violation, 1 - p(refusal opens)")
    violations.legend(ncols=4, fontsize="small")
    for name in rows[0]["multipliers"] if rows else []:
        multipliers.plot([row["multipliers"][name] for row in rows], label=name)
    multipliers.set_ylabel("multiplier")
    divergence.plot([row["kl"] for row in rows])
    divergence.set_ylabel("KL to base, nats/token")
    divergence.set_xlabel("step")
    for axes in (violations, multipliers, divergence):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=90, metadata=_png_metadata())


def _smooth(values: list[float]) -> list[float]:
    out: list[float] = []
    for value in values:
        out.append(value if not out else SMOOTHING * out[-1] + (1 - SMOOTHING) * value)
    return out


def _png_metadata() -> dict[str, Any]:
    """Return metadata without a software version, so that equal curves give equal files."""
    return {"Software": None}

"""Multipliers of a constrained training: dual control, projected on what a multiplier can be.

Maximise quality subject to ``E[violation_c] <= epsilon`` for every category c: as in Safe RLHF
(arXiv 2310.12773) the Lagrangian's weights rise while a category violates its bound and fall
when it does not. The step's weights follow a differentiable bound of the violation, the
multipliers its true value (the proxy Lagrangian of arXiv 1804.06500).

Dual ascent alone integrates, so a multiplier is still high when the bound is met long since. A
term in proportion to the present slack lets it go at once (PID Lagrangian, arXiv 2007.03964).
"""

from collections.abc import Mapping, Sequence


class Multipliers:
    """One multiplier a category, in ``[0, cap]``: ``clip(I + gain s, 0, cap)``.

    The integral ``I`` is moved by ``rate s`` and stays in ``[0, cap]`` itself; ``s`` is the
    ``slack`` of the category's violation.

    Args:
        categories: Names of the constraints.
        epsilon: Largest violation that is allowed in expectation, in (0, 1).
        rate: Step of the dual ascent.
        gain: Weight of the present slack; 0 is dual ascent alone.
        start: First value of every multiplier.
        cap: Largest value; bounds the step when a constraint cannot be met.

    Raises:
        ValueError: ``epsilon`` leaves no room on one side, or another setting makes no sense.
    """

    def __init__(
        self,
        categories: Sequence[str],
        *,
        epsilon: float,
        rate: float = 0.1,
        gain: float = 0.0,
        start: float = 1.0,
        cap: float = 10.0,
    ) -> None:
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon must be between 0 and 1, is {epsilon}")
        if not (rate > 0 and gain >= 0 and 0 <= start <= cap):
            raise ValueError(
                f"rate {rate} must be positive, gain {gain} at least 0, start {start} in "
                f"[0, cap {cap}]"
            )
        self.epsilon, self.rate, self.gain, self.cap = epsilon, rate, gain, cap
        self.values = dict.fromkeys(categories, float(start))
        self._integrals = dict(self.values)

    def slack(self, violation: float) -> float:
        """Return how far a violation is from epsilon, each side on a scale of its own.

        1 where everything violates, 0 at epsilon, -1 where nothing does: an epsilon near 0 must
        not make the fall of a multiplier slower than its rise.
        """
        off = violation - self.epsilon
        return off / (1 - self.epsilon) if off > 0 else off / self.epsilon

    def ascend(self, violations: Mapping[str, float]) -> None:
        """Move up where the bound is broken, else down.

        Args:
            violations: Category to its measured violation in [0, 1]; others stay.

        Raises:
            KeyError: A category is unknown.
        """
        for category, violation in violations.items():
            slack = self.slack(violation)
            held = self._clipped(self._integrals[category] + self.rate * slack)
            self._integrals[category] = held
            self.values[category] = self._clipped(held + self.gain * slack)

    def shares(self) -> tuple[float, dict[str, float]]:
        """Return the weights of quality and of each constraint, 1 in all.

        Divided by one plus all multipliers (arXiv 2007.03964), so that a step stays of one size.
        """
        whole = 1.0 + sum(self.values.values())
        return 1.0 / whole, {name: value / whole for name, value in self.values.items()}

    def _clipped(self, value: float) -> float:
        return min(self.cap, max(0.0, value))

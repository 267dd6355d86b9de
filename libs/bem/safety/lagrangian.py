"""Multipliers of a constrained training: dual ascent, projected on what a multiplier can be.

Maximise quality subject to ``E[violation_c] <= epsilon`` for every category c: as in Safe RLHF
(arXiv 2310.12773) the Lagrangian's weights rise while a category violates its bound and fall
when it does not. The step's weights follow a differentiable bound of the violation, the
multipliers its true value (the proxy Lagrangian of arXiv 1804.06500).
"""

from collections.abc import Mapping, Sequence


class Multipliers:
    """One multiplier a category, in ``[0, cap]``.

    Args:
        categories: Names of the constraints.
        epsilon: Largest violation that is allowed in expectation, in [0, 1].
        rate: Step of the dual ascent.
        start: First value of every multiplier.
        cap: Largest value; bounds the step when a constraint cannot be met.

    Raises:
        ValueError: ``epsilon`` is no probability, or rate, start or cap make no sense.
    """

    def __init__(
        self,
        categories: Sequence[str],
        *,
        epsilon: float,
        rate: float = 0.1,
        start: float = 1.0,
        cap: float = 10.0,
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1], is {epsilon}")
        if not (rate > 0 and 0 <= start <= cap):
            raise ValueError(f"rate {rate} must be positive, start {start} in [0, cap {cap}]")
        self.epsilon, self.rate, self.cap = epsilon, rate, cap
        self.values = dict.fromkeys(categories, float(start))

    def ascend(self, violations: Mapping[str, float]) -> None:
        """Move up where the bound is broken, else down: ``clip(l + rate (v - epsilon), 0, cap)``.

        Args:
            violations: Category to its measured violation in [0, 1]; others stay.

        Raises:
            KeyError: A category is unknown.
        """
        for category, violation in violations.items():
            moved = self.values[category] + self.rate * (violation - self.epsilon)
            self.values[category] = min(self.cap, max(0.0, moved))

    def shares(self) -> tuple[float, dict[str, float]]:
        """Return the weights of quality and of each constraint, 1 in all.

        Divided by one plus all multipliers (arXiv 2007.03964), so that a step stays of one size.
        """
        whole = 1.0 + sum(self.values.values())
        return 1.0 / whole, {name: value / whole for name, value in self.values.items()}

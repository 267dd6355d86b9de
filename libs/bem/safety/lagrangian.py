"""Lagrange multipliers of constrained training, updated by a clipped PI controller.

The training maximises quality subject to ``E[violation_c] <= epsilon`` for each category c. As in
Safe RLHF (arXiv 2310.12773), the weight of a constraint rises while its category violates the bound
and falls while it does not. The gradient step uses a differentiable upper bound of the violation;
the multipliers follow its true value (proxy Lagrangian, arXiv 1804.06500).

Dual ascent alone integrates the violation, so a multiplier stays high long after the bound is met
and training overshoots. A term proportional to the current violation removes that lag (PID
Lagrangian, arXiv 2007.03964).

Example:
    ``epsilon = 0.2, rate = 0.1, gain = 2, start = 1, cap = 10`` and one category:

    ========= ===== =================== =========================
    violation slack integral I          multiplier clip(I + 2 s)
    ========= ===== =================== =========================
    1.0        1.0  1.0 + 0.1 = 1.1     1.1 + 2.0 = 3.1
    1.0        1.0  1.1 + 0.1 = 1.2     1.2 + 2.0 = 3.2
    0.0       -1.0  1.2 - 0.1 = 1.1     1.1 - 2.0 < 0, so 0
    ========= ===== =================== =========================

    With ``gain = 0`` the multiplier would still be 1.1 in the last step.
"""

from collections.abc import Mapping, Sequence


class LagrangeMultipliers:
    """One multiplier for each category, ``clip(I + gain s, 0, cap)``.

    The integral ``I`` moves by ``rate s`` and is clipped to ``[0, cap]`` itself; ``s`` is the
    normalised slack of the category's violation.

    Args:
        categories: Names of the constraints.
        epsilon: Largest violation that is allowed in expectation, in (0, 1).
        rate: Integral gain (step size of the dual ascent), above 0.
        gain: Proportional gain; 0 is dual ascent alone.
        start: Initial value of every multiplier.
        cap: Largest value; bounds the step if a constraint cannot be met.

    Raises:
        ValueError: ``epsilon`` leaves no room on one side, or another argument is out of range.
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
            raise ValueError(f"epsilon: {epsilon} is out of range; it must be between 0 and 1")
        if not (rate > 0 and gain >= 0 and 0 <= start <= cap):
            raise ValueError(
                f"rate {rate} must be positive, gain {gain} at least 0, start {start} in "
                f"[0, cap {cap}]"
            )
        self.epsilon, self.rate, self.gain, self.cap = epsilon, rate, gain, cap
        self.values = dict.fromkeys(categories, float(start))
        self._integrals = dict(self.values)

    def slack(self, violation: float) -> float:
        """Return the distance of a violation from epsilon, normalised to [-1, 1].

        It is 1 if everything violates, 0 at epsilon and -1 if nothing does. Each side has its own
        scale; otherwise an epsilon near 0 would let multipliers rise fast and fall slowly.
        """
        excess = violation - self.epsilon
        return excess / (1 - self.epsilon) if excess > 0 else excess / self.epsilon

    def update(self, violations: Mapping[str, float]) -> None:
        """Raise the multipliers of violated constraints and lower the others.

        Args:
            violations: Measured violation of each category, in [0, 1]; categories that are left
                out keep their multiplier.

        Raises:
            KeyError: A category is unknown.
        """
        for category, violation in violations.items():
            slack = self.slack(violation)
            # The integral is clipped too (anti-windup): a constraint that was violated for long
            # must not need as long to fall.
            integral = self._clip(self._integrals[category] + self.rate * slack)
            self._integrals[category] = integral
            self.values[category] = self._clip(integral + self.gain * slack)

    def loss_weights(self) -> tuple[float, dict[str, float]]:
        """Return the weights of quality and of each constraint, which add up to 1.

        They are divided by one plus all multipliers (arXiv 2007.03964), so that the size of a
        step does not depend on the multipliers.
        """
        total = 1.0 + sum(self.values.values())
        return 1.0 / total, {name: value / total for name, value in self.values.items()}

    def _clip(self, value: float) -> float:
        return min(self.cap, max(0.0, value))

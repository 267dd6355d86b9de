"""Curriculum of scrambles: which families a step uses, and how strongly they change a text.

By strength all families are there from the beginning and the rate of changes rises; by family they
come in turn, each at the full rate. The first suits scrambles that interfere, the second is the
order of the design: bijective, syntax, semantic.
"""

from dataclasses import dataclass

from bem.errors import InvalidSettingError

FAMILIES = ("bijective", "surface", "syntax", "semantic")
"""Families of scrambles in the order in which they are opened."""


@dataclass(frozen=True)
class Curriculum:
    """Schedule of scrambles over a training run.

    Attributes:
        first_rate: Share of the places that change at the beginning, in (0, last_rate].
        last_rate: Share of the places that change from ``ramp`` on, in [first_rate, 1].
        ramp: Share of the run over which rate or families rise, in (0, 1].
        by_family: Open families in turn at ``last_rate``, instead of raising the rate of all.

    Raises:
        InvalidSettingError: A number is out of its range.
    """

    first_rate: float = 0.02
    last_rate: float = 0.15
    ramp: float = 0.5
    by_family: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.first_rate <= self.last_rate <= 1 or not 0 < self.ramp <= 1:
            raise InvalidSettingError(
                "curriculum: 0 < first_rate <= last_rate <= 1 and 0 < ramp <= 1 are needed; got "
                f"{self}"
            )

    def rate(self, progress: float) -> float:
        """Return the rate at a share of the run in [0, 1]."""
        if self.by_family:
            return self.last_rate
        climbed = min(1.0, progress / self.ramp)
        return self.first_rate + climbed * (self.last_rate - self.first_rate)

    def strength(self, progress: float) -> float:
        """Return the rate relative to the last one, in (0, 1], for scrambles without a rate."""
        return self.rate(progress) / self.last_rate

    def families(self, progress: float) -> tuple[str, ...]:
        """Return the families that are open at a share of the run in [0, 1]."""
        if not self.by_family:
            return FAMILIES
        steps = int(min(1.0, progress / self.ramp) * (len(FAMILIES) - 1) + 1e-9)
        return FAMILIES[: steps + 1]

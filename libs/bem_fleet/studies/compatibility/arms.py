"""Arms of the compatibility study: which missions are active, and on which sets they are asked.

An arm with a mission that has learned nothing and changes nothing (online without a bank, sep
without a front) is the arm without it, and is measured once for both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from bem_fleet.studies.compatibility.mission_items import MISSIONS, MissionItem, mission_items
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts
from bem_fleet.studies.compatibility.shared_engine import EngineParts

PAIRS = tuple(combinations(MISSIONS, 2))
"""All pairs, in the order of the gate's metrics."""

_IDLE_WITHOUT_ARTIFACT = ("online", "sep")


@dataclass(frozen=True)
class Arm:
    """Missions that are active together.

    Attributes:
        missions: Names in the order of ``MISSIONS``.
    """

    missions: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name in reports."""
        return " + ".join(self.missions) or "no mission"

    def effective(self, seed: SeedArtifacts) -> "Arm":
        """Return the arm of those missions that act on a request."""
        return Arm(
            tuple(
                one for one in self.missions if one not in _IDLE_WITHOUT_ARTIFACT or seed.has(one)
            )
        )

    def parts(self, seed: SeedArtifacts) -> EngineParts:
        """Return what the arm's engine needs."""
        acting = self.effective(seed).missions
        return EngineParts("sep" in acting, "safety" in acting and seed.has("safety"))


@dataclass(frozen=True)
class Cell:
    """An arm on the items of one set.

    Attributes:
        arm: The arm.
        mission: Mission whose set it is.
        count: Items of the set.
    """

    arm: Arm
    mission: str
    count: int

    def items(self, split: str, keys: frozenset[str] | None = None) -> list[MissionItem]:
        """Return the items of a split; with ``keys`` those that it names."""
        found = mission_items(self.mission, split, self.count)
        return [one for one in found if keys is None or one.key in keys]


ALL_FIVE = Arm(MISSIONS)
EVERY_ARM = (*(Arm((one,)) for one in MISSIONS), *map(Arm, PAIRS), ALL_FIVE)


def choice_cells(count: int) -> Iterator[Cell]:
    """Yield the cells that choose the better of two missions: each alone on every set."""
    for one in MISSIONS:
        for mission in MISSIONS:
            yield Cell(Arm((one,)), mission, count)


def pair_cells(count: int) -> Iterator[Cell]:
    """Yield each mission alone and each pair, on the first items of the sets of a pair."""
    yield from choice_cells(count)
    for pair in PAIRS:
        for mission in pair:
            yield Cell(Arm(pair), mission, count)


def fleet_cells(count: int) -> Iterator[Cell]:
    """Yield each mission alone and all five, on the mission's own set."""
    for mission in MISSIONS:
        yield Cell(Arm((mission,)), mission, count)
        yield Cell(ALL_FIVE, mission, count)

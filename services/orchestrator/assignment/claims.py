"""What missions ask for, and what they get."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import lru_cache


class Priority(IntEnum):
    """Class of a mission; a higher one is served first and may displace a lower one."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """GPUs that one workload of a mission needs.

    Attributes:
        key: Unique, such as ``router/primary``.
        mission: Whose it is.
        priority: Its class.
        pods: Pods of the workload, 1 or more.
        gpus: GPUs of each pod, all on one node, 1 or more.
        memory_gib: Memory that each GPU must have; on a shared GPU, what the pod takes of it.
        products: Products that will do, the preferred first, each a part of the product's
            label such as ``H100``; empty: any.
        shares_with: Missions that may use the same GPU, where they allow it too.
        device: A device by name, such as ``H100_0``; empty: any. Wins over ``products``.
        created: Age of the mission, any increasing number; the older claim goes first.
    """

    key: str
    mission: str
    priority: Priority = Priority.MEDIUM
    pods: int = 1
    gpus: int = 1
    memory_gib: float = 0.0
    products: tuple[str, ...] = ()
    shares_with: frozenset[str] = frozenset()
    device: str = ""
    created: float = 0.0

    def accepts(self, product: str) -> int | None:
        """Return how preferred ``product`` is, 0 best; None if it will not do."""
        return _rank(self.products, product)


@lru_cache(maxsize=4096)
def _rank(products: tuple[str, ...], product: str) -> int | None:
    """Return the place of the first of ``products`` that is part of ``product``."""
    if not products:
        return 0
    wanted = product.casefold()
    return next((i for i, name in enumerate(products) if name.casefold() in wanted), None)


class RefusalReason(StrEnum):
    """Why pods of a claim have no GPU, as a condition's reason."""

    NO_GPUS_IN_CLUSTER = "NoGPUsInCluster"
    DEVICE_MISSING = "DeviceMissing"
    DEVICE_TAKEN = "DeviceTaken"
    PRODUCT_MISSING = "ProductMissing"
    MEMORY_TOO_SMALL = "MemoryTooSmall"
    NODE_TOO_SMALL = "NodeTooSmall"
    OVERBOOKED = "Overbooked"

    @property
    def is_conflict(self) -> bool:
        """Whether others hold, or the table names twice, what would otherwise do."""
        return self in _CONFLICTS


_CONFLICTS = frozenset(
    {RefusalReason.DEVICE_MISSING, RefusalReason.DEVICE_TAKEN, RefusalReason.OVERBOOKED}
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What keeps a claim from being whole.

    Attributes:
        reason: For machines.
        message: What is missing, for people.
        pods: How many of the claim's pods have no place.
    """

    reason: RefusalReason
    message: str
    pods: int


Holding = Mapping[str, int]
"""Pods by node."""


@dataclass(frozen=True)
class Plan:
    """Who gets what.

    Attributes:
        placed: By claim key; a claim without a place is absent.
        refused: By claim key, for claims that are not whole.
        evicted: By claim key, pods that had a place and have none now.
        moved: By claim key, pods that have another place now.
    """

    placed: Mapping[str, Holding] = field(default_factory=dict)
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    evicted: Mapping[str, int] = field(default_factory=dict)
    moved: Mapping[str, int] = field(default_factory=dict)

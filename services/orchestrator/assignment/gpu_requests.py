"""GPU requests of missions and the assignment plan that answers them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import lru_cache


class Priority(IntEnum):
    """Priority class of a mission; a higher class is served first and may preempt a lower one."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """GPUs that one workload of a mission requests.

    Attributes:
        key: Unique key, such as ``default/router/primary``.
        mission: Name of the mission that makes the request.
        priority: Priority class of that mission.
        pods: Number of pods of the workload, 1 or more.
        gpus: GPUs of each pod, all on one node, 1 or more.
        memory_gib: Memory that each GPU must have, in GiB; on a shared GPU, the memory that the
            pod takes of it.
        products: Acceptable GPU products, the preferred one first; each is a part of the product
            label, such as ``H100``. Empty accepts any product.
        shares_with: Names of missions that may use the same time-sliced GPU, if they allow it too.
        device: One device by name, such as ``H100_0``; takes precedence over ``products``. Empty
            accepts any device.
        created: Creation time of the mission, or any increasing number; the older request is
            served first.
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

    @property
    def name(self) -> str:
        """Name of the request within its mission, such as ``primary``."""
        return self.key.rpartition("/")[2]

    def product_rank(self, product: str) -> int | None:
        """Return the preference rank of ``product``, 0 for the best; None if unacceptable."""
        return _rank(self.products, product)


@lru_cache(maxsize=4096)
def _rank(products: tuple[str, ...], product: str) -> int | None:
    """Return the index of the first of ``products`` that is part of ``product``."""
    if not products:
        return 0
    label = product.casefold()
    return next((i for i, name in enumerate(products) if name.casefold() in label), None)


class UnmetReason(StrEnum):
    """Reason why pods of a GPU request have no GPU, in the form of a condition's reason."""

    NO_GPUS_IN_CLUSTER = "NoGPUsInCluster"
    DEVICE_MISSING = "DeviceMissing"
    DEVICE_TAKEN = "DeviceTaken"
    PRODUCT_MISSING = "ProductMissing"
    MEMORY_TOO_SMALL = "MemoryTooSmall"
    NODE_TOO_SMALL = "NodeTooSmall"
    NODE_CLOSED = "NodeClosed"
    OVERBOOKED = "Overbooked"

    @property
    def is_conflict(self) -> bool:
        """Whether suitable GPUs are named but absent, or are assigned to others."""
        return self in _CONFLICTS


_CONFLICTS = frozenset(
    {UnmetReason.DEVICE_MISSING, UnmetReason.DEVICE_TAKEN, UnmetReason.OVERBOOKED}
)


@dataclass(frozen=True, slots=True)
class UnmetRequest:
    """Explanation of a GPU request that is not fully met.

    Attributes:
        reason: Machine-readable reason.
        message: Explanation for people: the request, the limit and the current owners.
        pods: Number of pods of the request that are not placed.
    """

    reason: UnmetReason
    message: str
    pods: int


PodsByNode = Mapping[str, int]
"""Number of pods of one GPU request by node name."""


@dataclass(frozen=True)
class AssignmentPlan:
    """Placement of every GPU request.

    Attributes:
        placed: Pods by node for each request key; a request without any placed pod is absent.
        unmet: Explanation for each request key that is not fully met.
        evicted: For each request key, the number of pods that lost their GPUs.
        moved: For each request key, the number of pods that moved to another node.
    """

    placed: Mapping[str, PodsByNode] = field(default_factory=dict)
    unmet: Mapping[str, UnmetRequest] = field(default_factory=dict)
    evicted: Mapping[str, int] = field(default_factory=dict)
    moved: Mapping[str, int] = field(default_factory=dict)

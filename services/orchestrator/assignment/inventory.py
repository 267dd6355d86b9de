"""The GPUs of a cluster, read from Node objects as GPU feature discovery labels them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

RESOURCE = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
MEMORY = "nvidia.com/gpu.memory"
COUNT = "nvidia.com/gpu.count"
REPLICAS = "nvidia.com/gpu.replicas"
_SHARED = "-SHARED"
# GiB of products whose label names no size, for nodes without a memory label.
_KNOWN_GIB = {
    "B200": 180,
    "H200": 141,
    "H100": 80,
    "A100": 40,
    "L40": 48,
    "A40": 48,
    "A6000": 48,
    "RTX-6000": 48,
    "RTX-4090": 24,
    "RTX-3090": 24,
    "A10": 24,
    "L4": 24,
    "V100": 16,
    "T4": 16,
}
_SIZE = re.compile(r"(?<![0-9])([0-9]{1,3})GB")
_NOISE = re.compile(r"NVIDIA|GEFORCE|TESLA|SHARED|HBM[0-9A-Z]*|PCIE|SXM[0-9]*|NVL|[0-9]+GB")


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node that has GPUs and takes pods.

    Attributes:
        name: Of the Node object.
        product: Label ``nvidia.com/gpu.product``.
        memory_gib: Of each GPU; 0 where neither label nor product tells.
        gpus: Physical GPUs that its device plugin offers.
        slots: Pods that may use one GPU at a time: above 1 where it is time-sliced.
        foreign: Units of ``nvidia.com/gpu`` that pods of other owners use.
    """

    name: str
    product: str
    memory_gib: float
    gpus: int
    slots: int = 1
    foreign: int = 0

    @property
    def kind(self) -> tuple[str, float, int]:
        """What nodes have in common that are alike for a claim."""
        return self.product, self.memory_gib, self.slots


def read_node(node: Mapping[str, Any], foreign: int = 0) -> GpuNode | None:
    """Return what a Node object offers; None if it has no GPU or takes no pods."""
    units = _number(node.get("status", {}).get("allocatable", {}).get(RESOURCE))
    if units < 1 or not _takes_pods(node):
        return None
    metadata = node["metadata"]
    labels = metadata.get("labels") or {}
    product = labels.get(PRODUCT, "unknown")
    slots = max(1, _number(labels.get(REPLICAS), 1))
    mib = _number(labels.get(MEMORY))
    return GpuNode(
        name=metadata["name"],
        product=product,
        # A card of "80 GB" reports 81,559 MiB: people ask in round figures.
        memory_gib=round(mib / 1024) if mib else memory_of(product),
        gpus=max(1, units // slots),
        slots=slots,
        foreign=min(foreign, units),
    )


def memory_of(product: str) -> float:
    """Return the GiB of one GPU that the product's name tells, 0 if it does not."""
    if size := _SIZE.search(product):
        return float(size.group(1))
    return next((float(gib) for name, gib in _KNOWN_GIB.items() if name in product), 0.0)


def gpu_units(pod: Mapping[str, Any]) -> int:
    """Return the units of ``nvidia.com/gpu`` that a pod has asked for."""
    return sum(
        _number(container.get("resources", {}).get("limits", {}).get(RESOURCE))
        for container in pod.get("spec", {}).get("containers", ())
    )


def family(product: str) -> str:
    """Return the short name of a product: ``NVIDIA-H100-80GB-HBM3`` is ``H100``."""
    return re.sub(r"[^A-Z0-9]", "", _NOISE.sub("", product.upper())) or "GPU"


def devices(nodes: Iterable[GpuNode]) -> dict[str, str]:
    """Return the node of each device name: ``H100_0`` is the first H100 by the nodes' names."""
    counted: dict[str, int] = {}
    found: dict[str, str] = {}
    for node in sorted(nodes, key=lambda one: one.name):
        name = family(node.product)
        for _ in range(node.gpus):
            index = counted.get(name, 0)
            counted[name] = index + 1
            found[f"{name}_{index}"] = node.name
    return found


def _takes_pods(node: Mapping[str, Any]) -> bool:
    spec = node.get("spec", {})
    if spec.get("unschedulable"):
        return False
    for taint in spec.get("taints") or ():
        if taint.get("effect") != "PreferNoSchedule" and taint.get("key") != RESOURCE:
            return False
    conditions = node.get("status", {}).get("conditions") or ()
    # A Node that nobody has reported on yet is taken at its word.
    return all(one.get("status") == "True" for one in conditions if one.get("type") == "Ready")


def _number(text: Any, default: int = 0) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        return default

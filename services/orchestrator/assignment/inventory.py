"""GPU inventory of a cluster, read from Node objects as GPU feature discovery labels them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESOURCE = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
MEMORY = "nvidia.com/gpu.memory"
COUNT = "nvidia.com/gpu.count"
REPLICAS = "nvidia.com/gpu.replicas"
# Memory in GiB of products whose label names no size, for nodes without a memory label. The first
# part of the label that matches wins, so A100 stands before A10.
_PRODUCT_GIB = {
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

Object = Mapping[str, Any]
GPU_TOLERATION = {"key": RESOURCE, "operator": "Exists", "effect": "NoSchedule"}

NodeKind = tuple[str, float, int]
"""Product, memory in GiB and pods per GPU: nodes of one kind are interchangeable."""


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node that has GPUs and whose pods keep running.

    Attributes:
        name: Name of the Node object.
        product: Value of the label ``nvidia.com/gpu.product``.
        memory_gib: Memory of each GPU in GiB; 0 if neither label nor product tells it.
        gpus: Number of physical GPUs that the device plugin offers.
        pods_per_gpu: Pods that may use one GPU at a time; above 1 if the GPU is time-sliced.
        foreign_units: Units of ``nvidia.com/gpu`` that pods outside the fleet use.
        closed: Why no new pod is scheduled there, such as ``cordoned``; empty if pods are.
    """

    name: str
    product: str
    memory_gib: float
    gpus: int
    pods_per_gpu: int = 1
    foreign_units: int = 0
    closed: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether the node's GPUs are time-sliced."""
        return self.pods_per_gpu > 1

    @property
    def kind(self) -> NodeKind:
        """The properties that make two nodes interchangeable for a GPU request."""
        return self.product, self.memory_gib, self.pods_per_gpu

    @property
    def assignable_gpus(self) -> int:
        """GPUs that the solver counts: all, but 1 on a time-sliced node.

        Which physical GPU of a time-sliced node a pod receives is the device plugin's choice, so
        the solver cannot promise two pods the same one unless it treats the node as one GPU.
        """
        return 1 if self.is_shared else self.gpus


def read_node(
    node: Object, foreign_units: int = 0, tolerations: Sequence[Object] = ()
) -> GpuNode | None:
    """Return the GPUs of a Node object; None if it has none or its pods do not run on.

    Args:
        node: The Node object.
        foreign_units: Units of ``nvidia.com/gpu`` that pods outside the fleet use.
        tolerations: Tolerations that every pod of a mission has, beside that of GPUs.
    """
    units = _integer(node.get("status", {}).get("allocatable", {}).get(RESOURCE))
    taints = _taints(node, tolerations)
    if units < 1 or _is_lost(node, taints):
        return None
    metadata = node["metadata"]
    labels = metadata.get("labels") or {}
    product = labels.get(PRODUCT, "unknown")
    pods_per_gpu = max(1, _integer(labels.get(REPLICAS), 1))
    mib = _integer(labels.get(MEMORY))
    return GpuNode(
        name=metadata["name"],
        product=product,
        # A GPU of "80 GB" reports 81,559 MiB: requests are written in round figures.
        memory_gib=round(mib / 1024) if mib else product_memory_gib(product),
        gpus=max(1, units // pods_per_gpu),
        pods_per_gpu=pods_per_gpu,
        foreign_units=min(foreign_units, units),
        closed=_why_closed(node, taints),
    )


def product_memory_gib(product: str) -> float:
    """Return the memory of one GPU in GiB by its product label; 0 if the label does not tell."""
    if size := _SIZE.search(product):
        return float(size.group(1))
    return next((float(gib) for name, gib in _PRODUCT_GIB.items() if name in product), 0.0)


def requested_gpu_units(pod: Mapping[str, Any]) -> int:
    """Return the units of ``nvidia.com/gpu`` that a pod's containers are limited to."""
    return sum(
        _integer(container.get("resources", {}).get("limits", {}).get(RESOURCE))
        for container in pod.get("spec", {}).get("containers", ())
    )


def short_product_name(product: str) -> str:
    """Return the short name of a product: ``NVIDIA-H100-80GB-HBM3`` becomes ``H100``."""
    return re.sub(r"[^A-Z0-9]", "", _NOISE.sub("", product.upper())) or "GPU"


def device_nodes(nodes: Iterable[GpuNode]) -> dict[str, str]:
    """Return the node of each device name; ``H100_0`` is the first H100 in order of node names."""
    counts: dict[str, int] = {}
    node_of: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: node.name):
        name = short_product_name(node.product)
        for _ in range(node.gpus):
            index = counts.get(name, 0)
            counts[name] = index + 1
            node_of[f"{name}_{index}"] = node.name
    return node_of


def is_tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    """Return whether one of the tolerations matches a taint, as Kubernetes' scheduler decides."""
    return any(
        one.get("effect") in (None, "", taint.get("effect"))
        and (
            one.get("key") in (None, "", taint.get("key"))
            if one.get("operator") == "Exists"
            else (one.get("key"), one.get("value") or "")
            == (taint.get("key"), taint.get("value") or "")
        )
        for one in tolerations
    )


def _is_lost(node: Object, taints: Iterable[Object]) -> bool:
    """Return whether the node's pods end: it is not ready, or a taint evicts them."""
    if any(taint.get("effect") == "NoExecute" for taint in taints):
        return True
    conditions = node.get("status", {}).get("conditions") or ()
    # A Node without a Ready condition has not been reported on yet and counts as ready.
    return any(c.get("status") != "True" for c in conditions if c.get("type") == "Ready")


def _why_closed(node: Object, taints: Iterable[Object]) -> str:
    """Return why no new pod is scheduled to the node, while those that run there stay."""
    if node.get("spec", {}).get("unschedulable"):
        return "cordoned"
    closing = [taint["key"] for taint in taints if taint.get("effect") == "NoSchedule"]
    return f"tainted {closing[0]}:NoSchedule" if closing else ""


def _taints(node: Object, tolerations: Sequence[Object]) -> list[Object]:
    """Return the taints that the fleet's pods do not tolerate."""
    taints = node.get("spec", {}).get("taints") or ()
    return [
        taint
        for taint in taints
        if taint.get("key") != RESOURCE and not is_tolerated(taint, tolerations)
    ]


def _integer(text: Any, default: int = 0) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        return default

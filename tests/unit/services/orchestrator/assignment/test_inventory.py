"""GPU inventory read from Node objects."""

from typing import Any

import pytest
from bem_fleet.services.orchestrator.assignment.inventory import (
    GpuNode,
    device_nodes,
    product_memory_gib,
    read_node,
    requested_gpu_units,
    short_product_name,
)


def node(product: str = "NVIDIA-L4", gpus: str = "2", **more: Any) -> dict[str, Any]:
    """Return a Node object."""
    labels = {"nvidia.com/gpu.product": product, **more.pop("labels", {})}
    ready = [{"type": "Ready", "status": more.pop("ready", "True")}]
    return {
        "metadata": {"name": "n", "labels": labels},
        "spec": more,
        "status": {"allocatable": {"nvidia.com/gpu": gpus}, "conditions": ready},
    }


@pytest.mark.parametrize(
    ("product", "gib", "short"),
    [
        ("NVIDIA-H100-80GB-HBM3", 80, "H100"),
        ("NVIDIA-A100-SXM4-40GB", 40, "A100"),
        ("NVIDIA-GeForce-RTX-4090", 24, "RTX4090"),
        ("NVIDIA-GeForce-RTX-4090-SHARED", 24, "RTX4090"),
        ("NVIDIA-L40S", 48, "L40S"),
        ("Tesla-T4", 16, "T4"),
        ("NVIDIA-NOVELTY", 0, "NOVELTY"),
    ],
)
def test_products_tell_memory_and_name(product: str, gib: float, short: str) -> None:
    """Both are read from the product's label where no other label tells."""
    assert product_memory_gib(product) == gib
    assert short_product_name(product) == short


def test_the_memory_label_is_rounded_as_people_speak() -> None:
    """81,559 MiB are the 80 GB of a request."""
    found = read_node(node(labels={"nvidia.com/gpu.memory": "81559"}))

    assert found
    assert found.memory_gib == 80


@pytest.mark.parametrize(
    "changed",
    [
        {"ready": "False"},
        {"ready": "Unknown"},
        {"taints": [{"key": "maintenance", "effect": "NoExecute"}]},
        {"gpus": "0"},
    ],
)
def test_a_node_whose_pods_end_has_no_gpus(changed: dict[str, Any]) -> None:
    """Unready, evicting, or without GPUs: there is nothing to assign."""
    assert read_node(node(**changed)) is None


@pytest.mark.parametrize(
    ("changed", "closed"),
    [
        ({"unschedulable": True}, "cordoned"),
        (
            {"taints": [{"key": "maintenance", "effect": "NoSchedule"}]},
            "tainted maintenance:NoSchedule",
        ),
        ({"taints": [{"key": "slow", "effect": "PreferNoSchedule"}]}, ""),
        ({}, ""),
    ],
)
def test_a_node_without_new_pods_keeps_those_it_has(changed: dict[str, Any], closed: str) -> None:
    """A cordon or a taint closes a node and says so; its GPUs stay those of its pods."""
    found = read_node(node(**changed))

    assert found
    assert (found.gpus, found.closed) == (2, closed)


def test_the_usual_gpu_taint_keeps_nobody_away() -> None:
    """Missions tolerate nvidia.com/gpu."""
    tainted = node(taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])

    assert read_node(tainted) is not None


TEAM = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("toleration", "closed"),
    [
        ({"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}, ""),
        ({"key": "dedicated", "value": "ml"}, ""),
        ({"key": "dedicated", "operator": "Exists"}, ""),
        ({"operator": "Exists"}, ""),
        ({"key": "dedicated", "value": "web"}, "tainted dedicated:NoSchedule"),
        ({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}, "tainted dedicated"),
        ({"key": "other", "operator": "Exists"}, "tainted dedicated:NoSchedule"),
    ],
)
def test_tolerated_taints_close_no_node(toleration: dict[str, str], closed: str) -> None:
    """A node that a team reserves by a taint takes the missions that tolerate it."""
    found = read_node(node(taints=[TEAM]), tolerations=[toleration])

    assert found
    assert found.closed.startswith(closed)
    assert bool(found.closed) == bool(closed)


def test_a_tolerated_eviction_ends_no_pod() -> None:
    """NoExecute evicts those pods only that do not tolerate it."""
    evicting = node(taints=[{**TEAM, "effect": "NoExecute"}])

    assert read_node(evicting) is None
    assert read_node(evicting, tolerations=[{"key": "dedicated", "operator": "Exists"}])


def test_a_time_sliced_node_offers_its_physical_gpus() -> None:
    """Eight units of four slots are two GPUs."""
    found = read_node(node(gpus="8", labels={"nvidia.com/gpu.replicas": "4"}), foreign_units=3)

    assert found == GpuNode("n", "NVIDIA-L4", 24.0, 2, pods_per_gpu=4, foreign_units=3)


def test_devices_are_numbered_over_nodes_by_name() -> None:
    """H100_1 is the first GPU of the second node if the first has one."""
    made = [GpuNode("b", "NVIDIA-H100-80GB-HBM3", 80, 2), GpuNode("a", "NVIDIA-H100-PCIe", 80, 1)]

    assert device_nodes(made) == {"H100_0": "a", "H100_1": "b", "H100_2": "b"}


def test_a_pods_units_are_the_sum_of_its_limits() -> None:
    """Containers without a limit use none."""
    containers = [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}, {}]

    assert requested_gpu_units({"spec": {"containers": containers}}) == 2

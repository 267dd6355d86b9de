"""Explanations of unmet GPU requests."""

import pytest
from bem_fleet.services.orchestrator.assignment.capacity import GpuCapacity
from bem_fleet.services.orchestrator.assignment.explain import UnmetExplainer
from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, UnmetReason
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode

RTX = "NVIDIA-GeForce-RTX-4090"


def request(name: str = "new", **more: object) -> GpuRequest:
    """Return a request of one mission."""
    return GpuRequest(f"{name}/primary", name, **more)  # type: ignore[arg-type]


def test_closed_nodes_are_named() -> None:
    """A device on a tainted node, and a request that only closed nodes could host, say why."""
    nodes = [GpuNode("n", RTX, 24.0, 2, closed="tainted x:NoSchedule"), GpuNode("m", "L4", 24.0, 1)]
    capacity = GpuCapacity(nodes)
    capacity.close_nodes()
    explainer = UnmetExplainer(capacity)
    device, product, memory = (
        explainer.explain(wanted, 1)
        for wanted in (
            request(device="RTX4090_0"),
            request(products=("4090",)),
            request(memory_gib=80.0),
        )
    )

    assert device.reason is product.reason is UnmetReason.NODE_CLOSED
    assert "on node n, which is tainted x:NoSchedule" in device.message
    assert "all suitable nodes are closed: n (tainted x:NoSchedule)" in product.message
    assert memory.reason is UnmetReason.MEMORY_TOO_SMALL


@pytest.mark.parametrize(
    ("wanted", "reason", "words"),
    [
        (request(products=("B200",)), UnmetReason.PRODUCT_MISSING, "no node has B200"),
        (request(memory_gib=80.0), UnmetReason.MEMORY_TOO_SMALL, "suitable GPU has 24 GiB"),
        (request(gpus=4), UnmetReason.NODE_TOO_SMALL, "suitable node has 2"),
        (request(device="RTX4090_7"), UnmetReason.DEVICE_MISSING, "RTX4090_0, RTX4090_1"),
        (request(device="H100_0"), UnmetReason.DEVICE_MISSING, "no H100; devices: RTX4090_0"),
        (request(device="RTX4090_0"), UnmetReason.DEVICE_TAKEN, "assigned to old (medium)"),
        (request(), UnmetReason.OVERBOOKED, "all 2 suitable GPUs are booked, 0 free; assigned"),
    ],
)
def test_the_first_requirement_that_fails_is_named(
    wanted: GpuRequest, reason: UnmetReason, words: str
) -> None:
    """Product, memory, node size, then GPUs in use: each with request, limit and owners."""
    capacity = GpuCapacity([GpuNode("n", RTX, 24.0, 2)])
    for _ in range(2):
        capacity.allocate(request("old", pods=2), "n")
    unmet = UnmetExplainer(capacity).explain(wanted, 1)

    assert unmet.reason is reason
    assert words in unmet.message


def test_pods_outside_the_fleet_are_counted() -> None:
    """GPUs that others use are named as such."""
    capacity = GpuCapacity([GpuNode("n", RTX, 24.0, 2, foreign_units=2)])

    assert "2 used by pods outside" in UnmetExplainer(capacity).explain(request(), 1).message


def test_a_cluster_without_gpus_says_so() -> None:
    """There is nothing to compare with."""
    unmet = UnmetExplainer(GpuCapacity([])).explain(request(), 3)

    assert (unmet.reason, unmet.pods) == (UnmetReason.NO_GPUS_IN_CLUSTER, 3)

"""Random fleets: missions of four priority classes on nodes of four GPU products."""

import numpy as np
from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, Priority
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode

PRODUCTS = (
    ("NVIDIA-H100-80GB-HBM3", 80.0, 8),
    ("NVIDIA-A100-SXM4-40GB", 40.0, 8),
    ("NVIDIA-L4", 24.0, 4),
    ("NVIDIA-GeForce-RTX-4090", 24.0, 2),
)
_CLASSES = (Priority.CRITICAL, Priority.HIGH, Priority.MEDIUM, Priority.LOW)
_WISHES = ((), (), ("H100",), ("A100", "H100"), ("4090", "L4"))


def fleet(
    seed: int, missions: int, nodes: int, load: float
) -> tuple[list[GpuRequest], list[GpuNode]]:
    """Return requests and nodes.

    Args:
        seed: Seed of the random generator.
        missions: Number of missions, with one GPU request each.
        nodes: Number of nodes with GPUs.
        load: Approximate ratio of requested to available GPUs; above 1 some pods wait.
    """
    rng = np.random.default_rng(seed)
    made = []
    for index in range(nodes):
        product, memory, gpus = PRODUCTS[rng.integers(len(PRODUCTS))]
        made.append(GpuNode(f"node-{index:05}", product, memory, gpus))
    total = sum(node.gpus for node in made)
    requests: list[GpuRequest] = []
    for index in range(missions):
        # The mean of a request that keeps the load where it is asked to be.
        mean = load * total / missions
        gpus = int(rng.choice([1, 1, 1, 2, 4, 8])) if mean > 1 else 1
        pods = int(np.clip(rng.poisson(mean / 2), 1, 64))
        requests.append(
            GpuRequest(
                key=f"default/m{index:04}/primary",
                mission=f"m{index:04}",
                priority=_CLASSES[rng.choice(4, p=[0.1, 0.3, 0.4, 0.2])],
                pods=pods,
                gpus=gpus,
                memory_gib=float(rng.choice([0, 16, 24, 40, 80])),
                products=_WISHES[rng.integers(len(_WISHES))],
                created=float(index),
            )
        )
    return requests, made

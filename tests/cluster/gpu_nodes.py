"""GPU nodes for tests: fake nodes that pods bind to, and GPUs that the real node advertises."""

import json

from tests.cluster.kubernetes_cli import run

PRODUCT, RESOURCE = "nvidia.com/gpu.product", "nvidia.com/gpu"


def create_fake_node(name: str, product: str, gpus: int) -> None:
    """Create a ready Node object with GPUs and a taint; pods bind to it and never run."""
    labels = {"kubernetes.io/hostname": name, PRODUCT: product}
    taint = {"key": RESOURCE, "value": "present", "effect": "NoSchedule"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [taint]},
    }
    run("kubectl", "apply", "-f", "-", stdin=json.dumps(node))
    capacity = {"cpu": "32", "memory": "128Gi", "pods": "110", RESOURCE: str(gpus)}
    ready = [{"type": "Ready", "status": "True", "reason": "Fake"}]
    _set_status(name, {"capacity": capacity, "allocatable": capacity, "conditions": ready})


def advertise_gpus(node: str, product: str, gpus: int) -> None:
    """Advertise GPUs that a real node lacks, so that pods that request one run there."""
    run("kubectl", "label", "--overwrite", "node", node, f"{PRODUCT}={product}")
    capacity = {RESOURCE: str(gpus)}
    _set_status(node, {"capacity": capacity, "allocatable": capacity})


def withdraw_gpus(node: str) -> None:
    """Remove the GPUs that ``advertise_gpus`` added."""
    run("kubectl", "label", "node", node, f"{PRODUCT}-")
    _set_status(node, {"capacity": {RESOURCE: None}, "allocatable": {RESOURCE: None}})


def _set_status(node: str, status: dict[str, object]) -> None:
    patch = json.dumps({"status": status})
    run("kubectl", "patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)

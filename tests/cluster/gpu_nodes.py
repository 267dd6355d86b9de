"""Nodes with GPUs: fake ones that pods bind to but never run on, and the real one pretending."""

import json

from tests.cluster.kubernetes_cli import run

PRODUCT, RESOURCE = "nvidia.com/gpu.product", "nvidia.com/gpu"


def fake_node(name: str, product: str, gpus: int) -> None:
    """Make a Node object that is ready and has GPUs; only who bears their taint goes there."""
    labels = {"kubernetes.io/hostname": name, PRODUCT: product}
    taint = {"key": RESOURCE, "value": "present", "effect": "NoSchedule"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [taint]},
    }
    run("kubectl", "apply", "-f", "-", given=json.dumps(node))
    offered = {"cpu": "32", "memory": "128Gi", "pods": "110", RESOURCE: str(gpus)}
    ready = [{"type": "Ready", "status": "True", "reason": "Fake"}]
    _set_status(name, {"capacity": offered, "allocatable": offered, "conditions": ready})


def give_gpus(node: str, product: str, gpus: int) -> None:
    """Have a real node offer GPUs that it lacks, so that pods that ask for one run."""
    run("kubectl", "label", "--overwrite", "node", node, f"{PRODUCT}={product}")
    offered = {RESOURCE: str(gpus)}
    _set_status(node, {"capacity": offered, "allocatable": offered})


def take_gpus(node: str) -> None:
    """Undo ``give_gpus``."""
    run("kubectl", "label", "node", node, f"{PRODUCT}-")
    _set_status(node, {"capacity": {RESOURCE: None}, "allocatable": {RESOURCE: None}})


def _set_status(node: str, status: dict[str, object]) -> None:
    patch = json.dumps({"status": status})
    run("kubectl", "patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)

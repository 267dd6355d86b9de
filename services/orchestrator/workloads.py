"""What the orchestrator writes into Deployments, and the canary's Deployment and Service."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from bem_fleet.services.orchestrator.assignment.claims import Holding
from bem_fleet.services.orchestrator.assignment.inventory import PRODUCT, RESOURCE
from bem_fleet.services.orchestrator.canary.spec import CanarySpec
from bem_fleet.services.orchestrator.mission import (
    GROUP,
    MISSION_LABEL,
    TRACK_LABEL,
    VERSION,
    Mission,
)

HOST = "kubernetes.io/hostname"
Object = dict[str, Any]


def deployment_path(namespace: str, name: str) -> str:
    """Return a Deployment's path at the API server."""
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


def service_path(namespace: str, name: str) -> str:
    """Return a Service's path at the API server."""
    return f"/api/v1/namespaces/{namespace}/services/{name}"


def placement(
    mission: Mission, held: Holding, product: str, *, replicas: int, priority_class: str
) -> Object:
    """Return all fields of the mission's Deployment that the orchestrator owns, to be applied.

    Args:
        mission: Whose.
        held: Pods by node; empty where it runs without GPUs.
        product: Of those nodes.
        replicas: Pods that may run.
        priority_class: PriorityClass, or empty.
    """
    pod: Object = {"priorityClassName": priority_class} if priority_class else {}
    if held:
        pod.update(_on_gpus(mission, held, product))
    template: Object = {"spec": pod} if pod else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": mission.workload, "namespace": mission.namespace},
        "spec": {"replicas": replicas, **({"template": template} if template else {})},
    }


def released(mission: Mission) -> Object:
    """Return an application that owns nothing: what the orchestrator had set is taken away."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": mission.workload, "namespace": mission.namespace},
        "spec": {"replicas": mission.replicas},
    }


def is_placed(deployment: Object, wanted: Object) -> bool:
    """Tell whether a Deployment has the fields of ``placement`` already, and none left over."""
    spec, wish = deployment["spec"], wanted["spec"]
    pod = spec["template"]["spec"]
    wish_pod = wish.get("template", {}).get("spec", {})
    selector = pod.get("nodeSelector") or {}
    if spec.get("replicas", 1) != wish["replicas"]:
        return False
    if any(
        selector.get(key) != wish_pod.get("nodeSelector", {}).get(key) for key in (HOST, PRODUCT)
    ):
        return False
    if pod.get("priorityClassName") != wish_pod.get("priorityClassName"):
        return False
    if "affinity" in wish_pod and pod.get("affinity") != wish_pod["affinity"]:
        return False
    return _gpu_limits(pod) == _gpu_limits(wish_pod)


def canary_name(mission: Mission) -> str:
    """Return the name of the canary's Deployment and Service."""
    return f"{mission.workload}-canary"


def canary_deployment(
    mission: Mission, stable: Object, spec: CanarySpec, held: Holding, product: str
) -> Object:
    """Return the second Deployment: stable's pods with another image and track, on own GPUs."""
    pod = deepcopy(stable["spec"]["template"])
    for key in (HOST, PRODUCT):
        pod["spec"].get("nodeSelector", {}).pop(key, None)
    if held:
        wanted = _on_gpus(mission, held, product)
        pod["spec"].setdefault("nodeSelector", {}).update(wanted["nodeSelector"])
        pod["spec"]["affinity"] = wanted.get("affinity")
    labels = {**pod["metadata"].get("labels", {}), TRACK_LABEL: "canary"}
    pod["metadata"]["labels"] = labels
    for container in pod["spec"]["containers"]:
        if container["name"] == mission.container:
            container["image"] = spec.image
            kept = [e for e in container.get("env") or () if e["name"] not in spec.env]
            changed = [{"name": k, "value": v} for k, v in sorted(spec.env.items())]
            container["env"] = [*kept, *changed]
    selector = {**stable["spec"]["selector"]["matchLabels"], TRACK_LABEL: "canary"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _owned(mission, spec),
        "spec": {
            "replicas": spec.replicas,
            "selector": {"matchLabels": selector},
            "template": pod,
            "strategy": {"type": "Recreate"},
        },
    }


def canary_service(mission: Mission, stable: Object, spec: CanarySpec) -> Object:
    """Return the Service by which the gateway reaches the canary."""
    selector = {**stable["spec"]["selector"]["matchLabels"], TRACK_LABEL: "canary"}
    port = {"name": "grpc", "port": mission.port, "targetPort": mission.port}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _owned(mission, spec),
        "spec": {"selector": selector, "ports": [{**port, "protocol": "TCP"}]},
    }


def promotion(mission: Mission, spec: CanarySpec) -> Object:
    """Return the patch that makes the canary's image and variables stable's own."""
    container: Object = {"name": mission.container, "image": spec.image}
    if spec.env:
        container["env"] = [{"name": k, "value": v} for k, v in sorted(spec.env.items())]
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


def snapshot(mission: Mission, deployment: Object | None) -> Object:
    """Return what a promotion would change: the image, and the variables of the canary."""
    if deployment is None or mission.canary is None or not mission.canary.image:
        return {}
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        if container["name"] == mission.container:
            env = {e["name"]: e.get("value") for e in container.get("env") or ()}
            kept = {name: env.get(name) for name in sorted(mission.canary.env)}
            return {"image": container["image"], "env": kept}
    return {}


def restoration(mission: Mission, kept: Object) -> Object:
    """Return the patch that undoes a promotion that was stopped half-way."""
    env = [
        {"name": name, "$patch": "delete"} if value is None else {"name": name, "value": value}
        for name, value in kept.get("env", {}).items()
    ]
    container: Object = {"name": mission.container, "image": kept["image"]}
    return {
        "spec": {"template": {"spec": {"containers": [container | ({"env": env} if env else {})]}}}
    }


def runs_image(deployment: Object, mission: Mission, image: str) -> bool:
    """Tell whether a Deployment's container has an image."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return any(c["name"] == mission.container and c.get("image") == image for c in containers)


def runs(deployment: Object, mission: Mission, spec: CanarySpec) -> bool:
    """Tell whether a Deployment's container has the canary's image and variables."""
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        if container["name"] == mission.container:
            env = {e["name"]: e.get("value") for e in container.get("env") or ()}
            same = all(env.get(name) == value for name, value in spec.env.items())
            return bool(container.get("image") == spec.image) and same
    return False


def is_complete(deployment: Object) -> bool:
    """Tell whether all pods of a Deployment are of its newest template and ready."""
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("readyReplicas", 0) >= wanted
        and status.get("replicas", 0) == wanted
    )


def ready_pods(deployment: Object | None) -> int:
    """Return how many pods of a Deployment are ready."""
    return int(((deployment or {}).get("status") or {}).get("readyReplicas", 0))


def unsuitable(mission: Mission, deployment: Object) -> str:
    """Return why a Deployment can have no canary beside it; empty if it can."""
    labels = deployment["spec"]["selector"].get("matchLabels") or {}
    if labels.get(TRACK_LABEL) != "stable":
        return (
            f"Deployment {mission.workload} must select {TRACK_LABEL}: stable, "
            "or its Service would send requests to the canary's pods"
        )
    names = [c["name"] for c in deployment["spec"]["template"]["spec"]["containers"]]
    if mission.container not in names:
        return f"Deployment {mission.workload} has no container {mission.container}: it has {names}"
    return ""


def _owned(mission: Mission, spec: CanarySpec) -> Object:
    owner = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Mission",
        "name": mission.name,
        "uid": mission.raw["metadata"]["uid"],
        "controller": True,
    }
    return {
        "name": canary_name(mission),
        "namespace": mission.namespace,
        "labels": {MISSION_LABEL: mission.name, TRACK_LABEL: "canary"},
        "annotations": {f"{GROUP}/canary-id": spec.id},
        "ownerReferences": [owner],
    }


def _on_gpus(mission: Mission, held: Holding, product: str) -> Object:
    """Return the pod fields that bind a pod to the GPUs that it was given."""
    pod: Object = {"nodeSelector": {PRODUCT: product}}
    if len(held) == 1:
        pod["nodeSelector"][HOST] = next(iter(held))
    else:
        pod["affinity"] = {"nodeAffinity": _among(sorted(held))}
    pod["tolerations"] = [{"key": RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]
    limits = {RESOURCE: str(mission.claims[0].gpus)}
    pod["containers"] = [{"name": mission.container, "resources": {"limits": limits}}]
    return pod


def _among(names: list[str]) -> Object:
    expression = {"key": HOST, "operator": "In", "values": names}
    terms = [{"matchExpressions": [expression]}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _gpu_limits(pod: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for container in pod.get("containers") or ():
        limit = (container.get("resources") or {}).get("limits", {}).get(RESOURCE)
        if limit is not None:
            found[container["name"]] = str(limit)
    return found

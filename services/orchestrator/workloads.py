"""Workloads of missions: patches of their Deployments, and a canary's Deployment and Service.

The mission's Deployment belongs to the chart. The orchestrator owns single fields of it by
server-side apply (replicas, node selector, GPU limit, priority class), and a promotion owns the
image under a field manager of its own.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from json import dumps
from typing import Any

from bem_fleet.services.orchestrator.assignment.gpu_requests import PodsByNode
from bem_fleet.services.orchestrator.assignment.inventory import (
    GPU_TOLERATION,
    PRODUCT,
    RESOURCE,
    is_tolerated,
)
from bem_fleet.services.orchestrator.canary.spec import CanarySpec
from bem_fleet.services.orchestrator.mission import (
    GROUP,
    MISSION_LABEL,
    PROMOTED,
    REPLICAS,
    TRACK_LABEL,
    VERSION,
    Mission,
)

HOST = "kubernetes.io/hostname"
_REQUIRED_NODES = "requiredDuringSchedulingIgnoredDuringExecution"
Object = dict[str, Any]


def deployment_path(namespace: str, name: str) -> str:
    """Return the path of a Deployment at the API server."""
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


def service_path(namespace: str, name: str) -> str:
    """Return the path of a Service at the API server."""
    return f"/api/v1/namespaces/{namespace}/services/{name}"


def placement_patch(
    mission: Mission,
    placed: PodsByNode,
    product: str,
    *,
    replicas: int,
    priority_class: str,
    tolerations: Sequence[Object] = (),
) -> Object:
    """Return all fields of the mission's Deployment that the orchestrator owns, for an apply.

    Args:
        mission: The mission.
        placed: Pods by node; empty if it runs without GPUs.
        product: GPU product of those nodes.
        replicas: Number of pods that may run.
        priority_class: Name of the PriorityClass; empty sets none.
        tolerations: Tolerations that the pods have; they stay.
    """
    pod: Object = {"priorityClassName": priority_class} if priority_class else {}
    if placed:
        pod.update(_gpu_pod_fields(mission, placed, product))
        pod["tolerations"] = _with_gpu_toleration(tolerations)
    template: Object = {"spec": pod} if pod else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": mission.workload,
            "namespace": mission.namespace,
            "annotations": {REPLICAS: str(mission.replicas)},
        },
        "spec": {"replicas": replicas, **({"template": template} if template else {})},
    }


def is_placed(deployment: Object) -> bool:
    """Return whether the orchestrator has placed a Deployment and not released it since."""
    return REPLICAS in (deployment["metadata"].get("annotations") or {})


def release_patch(deployment: Object) -> Object:
    """Return an apply that gives up all fields but the replicas; the API server removes them."""
    metadata = deployment["metadata"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        # With the uid an apply to a Deployment that is gone creates none.
        "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
        "spec": {"replicas": int(metadata["annotations"][REPLICAS])},
    }


def has_placement(deployment: Object, wanted: Object) -> bool:
    """Return whether a Deployment has the fields of ``placement_patch``, and no stale ones.

    Only owned fields are compared, so that changes by the chart or by people cause no writes.
    """
    spec, wanted_spec = deployment["spec"], wanted["spec"]
    pod = spec["template"]["spec"]
    wanted_pod = wanted_spec.get("template", {}).get("spec", {})
    selector = pod.get("nodeSelector") or {}
    annotations = deployment["metadata"].get("annotations") or {}
    if annotations.get(REPLICAS) != wanted["metadata"]["annotations"][REPLICAS]:
        return False
    if spec.get("replicas", 1) != wanted_spec["replicas"]:
        return False
    if any(
        selector.get(key) != wanted_pod.get("nodeSelector", {}).get(key) for key in (HOST, PRODUCT)
    ):
        return False
    if pod.get("priorityClassName") != wanted_pod.get("priorityClassName"):
        return False
    if "affinity" in wanted_pod and _required_nodes(pod) != _required_nodes(wanted_pod):
        return False
    return _gpu_limits(pod) == _gpu_limits(wanted_pod)


def canary_name(mission: Mission) -> str:
    """Return the name of the canary's Deployment and Service."""
    return f"{mission.workload}-canary"


def canary_deployment(
    mission: Mission, stable: Object, spec: CanarySpec, placed: PodsByNode, product: str
) -> Object:
    """Return the canary's Deployment: stable's pods with another image, track and GPUs."""
    pod = deepcopy(stable["spec"]["template"])
    for key in (HOST, PRODUCT):
        pod["spec"].get("nodeSelector", {}).pop(key, None)
    if placed:
        wanted = _gpu_pod_fields(mission, placed, product)
        pod["spec"].setdefault("nodeSelector", {}).update(wanted["nodeSelector"])
        pod["spec"]["affinity"] = _with_nodes(pod["spec"], wanted.get("affinity") or {})
        pod["spec"]["tolerations"] = _with_gpu_toleration(pod["spec"].get("tolerations") or ())
    labels = {**pod["metadata"].get("labels", {}), TRACK_LABEL: "canary"}
    pod["metadata"]["labels"] = labels
    for container in pod["spec"]["containers"]:
        if container["name"] == mission.container:
            container["image"] = spec.image
            inherited = [e for e in container.get("env") or () if e["name"] not in spec.env]
            changed = [{"name": k, "value": v} for k, v in sorted(spec.env.items())]
            container["env"] = [*inherited, *changed]
    selector = {**stable["spec"]["selector"]["matchLabels"], TRACK_LABEL: "canary"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _canary_metadata(mission, spec),
        "spec": {
            "replicas": spec.replicas,
            "selector": {"matchLabels": selector},
            "template": pod,
            # A rolling update would need a second set of GPUs for the same canary.
            "strategy": {"type": "Recreate"},
        },
    }


def canary_service(mission: Mission, stable: Object, spec: CanarySpec) -> Object:
    """Return the Service through which the gateway reaches the canary."""
    selector = {**stable["spec"]["selector"]["matchLabels"], TRACK_LABEL: "canary"}
    port = {"name": "grpc", "port": mission.port, "targetPort": mission.port}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _canary_metadata(mission, spec),
        "spec": {"selector": selector, "ports": [{**port, "protocol": "TCP"}]},
    }


def promotion_patch(mission: Mission, spec: CanarySpec) -> Object:
    """Return the patch that sets the canary's image and variables in stable's Deployment."""
    container: Object = {"name": mission.container, "image": spec.image}
    if spec.env:
        container["env"] = [{"name": k, "value": v} for k, v in sorted(spec.env.items())]
    promoted = dumps({"image": spec.image, "env": dict(spec.env)}, sort_keys=True)
    return {
        "metadata": {"annotations": {PROMOTED: promoted}},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


def stable_snapshot(mission: Mission, deployment: Object | None) -> Object:
    """Return the parts of stable that a promotion changes: image and the canary's variables."""
    if deployment is None or mission.canary is None or not mission.canary.image:
        return {}
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        if container["name"] == mission.container:
            env = {e["name"]: e.get("value") for e in container.get("env") or ()}
            values = {name: env.get(name) for name in sorted(mission.canary.env)}
            return {"image": container["image"], "env": values}
    return {}


def restore_patch(mission: Mission, snapshot: Mapping[str, Any]) -> Object:
    """Return the patch that undoes a stopped promotion, from a snapshot of stable before it."""
    env = [
        {"name": name, "$patch": "delete"} if value is None else {"name": name, "value": value}
        for name, value in snapshot.get("env", {}).items()
    ]
    container: Object = {"name": mission.container, "image": snapshot["image"]}
    return {
        "metadata": {"annotations": {PROMOTED: None}},
        "spec": {"template": {"spec": {"containers": [container | ({"env": env} if env else {})]}}},
    }


def runs_image(deployment: Object, mission: Mission, image: str) -> bool:
    """Return whether a Deployment's mission container has the image."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return any(c["name"] == mission.container and c.get("image") == image for c in containers)


def runs_canary_spec(deployment: Object, mission: Mission, spec: CanarySpec) -> bool:
    """Return whether a Deployment's mission container has the canary's image and variables."""
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        if container["name"] == mission.container:
            env = {e["name"]: e.get("value") for e in container.get("env") or ()}
            same = all(env.get(name) == value for name, value in spec.env.items())
            return bool(container.get("image") == spec.image) and same
    return False


def is_complete(deployment: Object) -> bool:
    """Return whether all pods of a Deployment are ready and made from its newest template."""
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    # The controller's counts describe the generation that it has observed: an older one is stale.
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("readyReplicas", 0) >= wanted
        and status.get("replicas", 0) == wanted
    )


def ready_pods(deployment: Object | None) -> int:
    """Return the number of ready pods of a Deployment; 0 if it is missing."""
    return int(((deployment or {}).get("status") or {}).get("readyReplicas", 0))


def workload_problem(mission: Mission, deployment: Object) -> tuple[str, str]:
    """Return reason and message why a Deployment cannot be the mission's; both empty if it can.

    Pods without the mission's label are taken for pods outside the fleet, whose GPUs nobody may
    have: a Deployment of such pods would be moved away from itself for ever.
    """
    template = deployment["spec"]["template"]
    label = (template.get("metadata", {}).get("labels") or {}).get(MISSION_LABEL)
    names = [c["name"] for c in template["spec"]["containers"]]
    if label != mission.name:
        return (
            "TemplateUnlabelled",
            (
                f"pods of Deployment {mission.workload} have not the label "
                f"{MISSION_LABEL}: {mission.name}; add it to spec.template.metadata.labels"
            ),
        )
    if mission.container not in names:
        return (
            "ContainerMissing",
            f"Deployment {mission.workload} has no container {mission.container}; it has {names}",
        )
    return "", ""


def canary_blocker(mission: Mission, deployment: Object) -> str:
    """Return why no canary can run beside a Deployment; empty if one can."""
    labels = deployment["spec"]["selector"].get("matchLabels") or {}
    if labels.get(TRACK_LABEL) != "stable":
        return (
            f"Deployment {mission.workload} must select {TRACK_LABEL}: stable; "
            "otherwise its Service sends requests to the canary's pods too"
        )
    return workload_problem(mission, deployment)[1]


def _canary_metadata(mission: Mission, spec: CanarySpec) -> Object:
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


def _gpu_pod_fields(mission: Mission, placed: PodsByNode, product: str) -> Object:
    """Return the pod fields that bind a pod to its assigned GPUs."""
    pod: Object = {"nodeSelector": {PRODUCT: product}}
    if len(placed) == 1:
        pod["nodeSelector"][HOST] = next(iter(placed))
    else:
        pod["affinity"] = {"nodeAffinity": _node_affinity(sorted(placed))}
    limits = {RESOURCE: str(mission.gpu_requests[0].gpus)}
    pod["containers"] = [{"name": mission.container, "resources": {"limits": limits}}]
    return pod


def _with_gpu_toleration(tolerations: Sequence[Object]) -> list[Object]:
    """Return tolerations with that of GPU nodes; an apply owns the list as a whole."""
    gpu_taint = {"key": RESOURCE, "effect": "NoSchedule"}
    return [*tolerations, *([] if is_tolerated(gpu_taint, tolerations) else [GPU_TOLERATION])]


def _node_affinity(names: list[str]) -> Object:
    expression = {"key": HOST, "operator": "In", "values": names}
    terms = [{"matchExpressions": [expression]}]
    return {_REQUIRED_NODES: {"nodeSelectorTerms": terms}}


def _with_nodes(pod: Mapping[str, Any], wanted: Mapping[str, Any]) -> Object:
    """Return a pod's affinity with the required nodes of its placement, or with none."""
    affinity = dict(pod.get("affinity") or {})
    nodes = {
        key: value
        for key, value in (affinity.pop("nodeAffinity", None) or {}).items()
        if key != _REQUIRED_NODES
    } | (wanted.get("nodeAffinity") or {})
    return affinity | ({"nodeAffinity": nodes} if nodes else {})


def _required_nodes(pod: Mapping[str, Any]) -> Object:
    """Return the required node affinity; other affinities of a pod are the chart's."""
    nodes = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    found: Object = nodes.get(_REQUIRED_NODES) or {}
    return found


def _gpu_limits(pod: Mapping[str, Any]) -> dict[str, str]:
    limits = {}
    for container in pod.get("containers") or ():
        limit = (container.get("resources") or {}).get("limits", {}).get(RESOURCE)
        if limit is not None:
            limits[container["name"]] = str(limit)
    return limits


def pods_are_new(deployment: Object) -> bool:
    """Return whether all existing pods of a Deployment are made from its newest template."""
    status = deployment.get("status") or {}
    generation = deployment["metadata"].get("generation", 0)
    return bool(
        status.get("observedGeneration", 0) >= generation
        and status.get("updatedReplicas", 0) == status.get("replicas", 0)
    )

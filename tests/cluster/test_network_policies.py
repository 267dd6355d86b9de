"""Network policies in force: who reaches which port, from every pod, another and other namespaces.

What must be reachable is derived from the services' descriptors, not from the chart's templates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from bem_fleet.descriptors import load_descriptors

from tests.cluster.client import CLIENTS
from tests.cluster.kubernetes_cli import CommandError, Release, run, wait_for
from tests.cluster.probe_pods import UNDECLARED, Address, Pod, probes, python_pods, reached

pytestmark = [pytest.mark.stage("network"), pytest.mark.e2e, pytest.mark.timeout(600)]

MONITORING = "monitoring"
# Pods of the fleet's labels that run for moments only: of `helm test`, and of the Job for Secrets.
SHORT_LIVED = ("inference-test", "secrets")
# Pods that belong to no release: in its namespace, in another one, and in that of Prometheus.
STRANGERS = ("stranger", "foreigner", "scraper")
DESCRIPTORS = {one.name: one for one in load_descriptors()}


@dataclass(frozen=True)
class Target:
    """What a pod may be able to reach.

    Attributes:
        owner: Name of the pod, `api` or `dns`.
        port: ``calls``, ``metrics``, ``health`` or ``undeclared`` of a pod.
        address: IP address and port; a name without a port is resolved only.
    """

    owner: str
    port: str
    address: Address


def callers(owner: str) -> set[str]:
    """Return who may call the main port of a pod; ``*`` is everybody."""
    if owner == "redis":
        users = {one.name for one in DESCRIPTORS.values() if one.redis or one.has_sidecar}
        return {*users, "witness"}
    return set(DESCRIPTORS[owner].clients) if owner in DESCRIPTORS else set()


def admits(target: Target, source: str) -> bool:
    """Return whether the target's own policies let a source in."""
    if target.owner in STRANGERS:
        return True
    if target.port == "calls":
        return bool({source, "*"} & callers(target.owner))
    return target.port == "metrics" and source == "scraper"


def sends(source: str, target: Target) -> bool:
    """Return whether the source's own policies let it out to a target."""
    if source in STRANGERS:
        return True
    if source == "inference-test":
        return target.owner not in STRANGERS
    return target.port == "calls" and source in callers(target.owner)


def allowed(source: str, target: Target) -> bool:
    """Return whether a pod must reach a target; if not, it must be refused."""
    if target.owner == "dns":
        return True
    if target.owner == "api":
        described = DESCRIPTORS.get(source)
        needs = described is not None and bool(described.chart.get("apiAccess"))
        return needs or source in {"secrets", *STRANGERS}
    # Its own ports are open to each pod: what others are refused does listen.
    return source == target.owner or (admits(target, source) and sends(source, target))


@pytest.fixture
def pods(release: Release) -> Iterator[dict[str, Pod]]:
    """Every pod of the release, and pods that are none of it, by name."""
    release.wait_for_rollout()
    found = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod
        for pod in release.objects("pods")
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    }
    common = {
        key: found["router"]["metadata"]["labels"][key]
        for key in ("app.kubernetes.io/instance", "app.kubernetes.io/name")
    }
    component = "app.kubernetes.io/component"
    labels: dict[tuple[str, str], dict[str, str]] = {
        (release.namespace, "stranger"): {},
        (CLIENTS, "foreigner"): {},
        (MONITORING, "scraper"): {},
        **{(release.namespace, name): {**common, component: name} for name in SHORT_LIVED},
    }
    image = found["validation"]["spec"]["containers"][0]["image"]
    run("kubectl", "create", "namespace", MONITORING)
    try:
        with python_pods(image, labels) as extra:
            fleet = {
                name: Pod(
                    release.namespace,
                    pod["metadata"]["name"],
                    container(pod),
                    pod["status"]["podIP"],
                )
                for name, pod in found.items()
            }
            yield {**fleet, **{pod.name: pod for pod in extra}}
    finally:
        run("kubectl", "delete", "namespace", MONITORING)


def container(pod: dict[str, Any]) -> str:
    """Return the last container of a pod: the service's own."""
    return str(pod["spec"]["containers"][-1]["name"])


def targets(release: Release, pods: dict[str, Pod]) -> list[Target]:
    """Return every declared port of the release, one that is not declared, API server and DNS."""
    kinds = {"pages": "metrics", "metrics": "metrics", "health": "health"}
    found = [Target(name, "undeclared", (pod.ip, UNDECLARED)) for name, pod in pods.items()]
    for shown in release.objects("pods"):
        owner = shown["metadata"]["labels"]["app.kubernetes.io/component"]
        if owner in pods and pods[owner].ip == shown["status"].get("podIP"):
            spec = shown["spec"]
            for one in (*spec.get("initContainers", ()), *spec["containers"]):
                for port in one.get("ports", ()):
                    kind = kinds.get(port["name"], "calls")
                    found.append(Target(owner, kind, (pods[owner].ip, port["containerPort"])))
    service = ("get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}")
    redis = f"{release.name}-redis.{release.namespace}.svc.cluster.local."
    return [
        *found,
        Target("api", "calls", (run("kubectl", *service), 443)),
        Target("dns", "calls", (redis, None)),
    ]


def test_only_listed_flows_pass(release: Release, pods: dict[str, Pod]) -> None:
    """From each pod every allowed port opens and every other is refused, as is the API server.

    Policies follow a new pod within moments, so that the pods are asked until all is right.
    """
    own = {one.name for one in DESCRIPTORS.values() if one.port} | {"redis", "witness"}
    assert pods.keys() == {*own, *SHORT_LIVED, *STRANGERS}
    asked = targets(release, pods)
    wrong: list[str] = []
    with probes(pods) as running:

        def is_right() -> bool:
            answers = reached(running, [target.address for target in asked])
            wrong[:] = [
                f"{source} -> {target.owner} {target.port} {target.address}: "
                + ("open" if opened else "refused")
                for source, opens in answers.items()
                for target, opened in zip(asked, opens, strict=True)
                if opened != allowed(source, target)
            ]
            return not wrong

        try:
            wait_for(is_right, "policies in force", limit_s=20)
        except CommandError as err:
            pytest.fail(f"{err}\n" + "\n".join(wrong))

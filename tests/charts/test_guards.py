"""Live releases: what may not change is refused before anything is written, and names are safe."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, VALUE_SETS, objects, run
from tests.charts.test_made_secrets import helm, plane, shared, upgrade
from tests.integration.clusters import ControlPlane, needs_kubernetes

__all__ = ["plane", "shared"]
SHIPPED = next(path for path in VALUE_SETS if path.name.startswith("shipped"))
CLAIM = "/api/v1/namespaces/fleet/persistentvolumeclaims"


def rendered(name: str, namespace: str, *options: str) -> list[dict[str, Any]]:
    """Return the objects of a release by its name and namespace."""
    done = run("template", name, str(CHART), "-n", namespace, "-f", str(SHIPPED), *options)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def versions(plane: ControlPlane) -> dict[str, str]:
    """Return the resource version of each object that a refused upgrade might have written."""
    where = "namespaces/fleet"
    paths = [f"/api/v1/{where}/services", f"/apis/apps/v1/{where}/deployments"]
    return {
        f"{path}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for path in [*paths, f"/apis/apps/v1/{where}/statefulsets"]
        for one in plane.call("GET", path)["items"]
    }


@pytest.mark.slow
@needs_kubernetes()
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nameOverride=x", "nameOverride"),
        ("fullnameOverride=other", "it would start empty"),
        ("redis.persistence.size=9Gi", "kubectl -n fleet patch pvc data-bem-fleet-redis-0"),
        ("auditWitness.size=1Gi", "patch pvc data-bem-fleet-witness-0"),
    ],
)
def test_what_cannot_change_is_refused_before_it_is_written(
    plane: ControlPlane, value: str, said: str
) -> None:
    """Services that are written before their Deployments are refused would lead nowhere."""
    upgrade(plane)
    before = versions(plane)
    done = helm(plane, "upgrade", "bem-fleet", str(CHART), "--set", value)

    assert done.returncode != 0
    assert said in done.stderr
    assert versions(plane) == before


@pytest.mark.slow
@needs_kubernetes()
def test_a_claim_that_was_enlarged_lets_the_upgrade_through(plane: ControlPlane) -> None:
    """The StatefulSet keeps the size that it was made with, which cannot change."""
    upgrade(plane)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-bem-fleet-redis-0"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "9Gi"}},
        },
    }
    plane.call("POST", CLAIM, claim)
    upgrade(plane, "redis.persistence.size=9Gi")
    made = plane.call("GET", "/apis/apps/v1/namespaces/fleet/statefulsets/bem-fleet-redis")
    (template,) = made["spec"]["volumeClaimTemplates"]

    assert template["spec"]["resources"]["requests"]["storage"] == "4Gi"


@pytest.mark.parametrize(
    ("name", "namespace", "full"),
    [("123", "4711", "bem-fleet-123"), ("true", "null", "true"), ("a.b", "1e3", "a-b")],
)
def test_names_that_yaml_reads_otherwise(name: str, namespace: str, full: str) -> None:
    """Numbers and booleans stay texts everywhere, and names of Services begin with a letter."""
    found = rendered(name, namespace)
    text = json.dumps(found)
    services = [one["metadata"]["name"] for one in found if one["kind"] == "Service"]
    subjects = [one["subjects"][0] for one in found if "subjects" in one]

    def strings(node: Any, key: str = "") -> None:
        if isinstance(node, dict):
            for inner, value in node.items():
                assert isinstance(inner, str), node
                strings(value, inner)
        elif isinstance(node, list):
            for value in node:
                strings(value, key)
        elif key in ("name", "namespace", "secretName") or key.startswith("app.kubernetes.io"):
            assert isinstance(node, str), (key, node)

    for one in found:
        strings(one)
        for labels in (one["metadata"].get("labels", {}),):
            assert all(isinstance(value, str) for value in labels.values()), labels
    assert {subject["namespace"] for subject in subjects} == {namespace}
    assert all(service.startswith(f"{full}-") for service in services)
    assert f'"app.kubernetes.io/instance": "{name}"' in text


def test_the_longest_release_name_fits() -> None:
    """Helm allows 53 characters; names of Services, labels and revisions have their own limits."""
    found = rendered("a" * 53, "n" * 63)
    limits = {"Service": 63, "Job": 63, "StatefulSet": 52}
    for one in found:
        assert len(one["metadata"]["name"]) <= limits.get(one["kind"], 253), one["metadata"]
        for value in one["metadata"].get("labels", {}).values():
            assert len(value) <= 63, value
        if one["kind"] == "Mission":
            assert len(f"{one['spec']['workload']}-canary") <= 60


@pytest.mark.parametrize(
    ("sidecar", "enabled", "said"),
    [
        ("true", "true", "has 61 characters; at most 53"),
        ("false", "true", ""),
        ("true", "false", ""),
    ],
)
def test_a_name_that_is_too_long_is_refused(sidecar: str, enabled: str, said: str) -> None:
    """The API server would refuse the Mission after half of the release is written."""
    block = "services.summariser-of-german"
    sets = (f"{block}.sidecar={sidecar}", f"{block}.enabled={enabled}", f"{block}.port=50099")
    options = [word for one in (*sets, f"{block}.healthService=a.B") for word in ("--set", one)]
    done = run("template", "a" * 40, str(CHART), "-f", str(SHIPPED), *options)

    assert said in done.stderr
    assert bool(done.returncode) is bool(said)


def test_a_namespace_is_enough() -> None:
    """Without rights on the cluster nothing outside the namespace is rendered."""
    sets = ("orchestration.seesNodes=false", "priorityClasses.create=false")
    found = rendered("fleet", "fleet", *(word for one in sets for word in ("--set", one)))
    kinds = {one["kind"] for one in found}

    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}
    assert "Role" in kinds


def test_two_namespaces_share_no_cluster_scoped_name() -> None:
    """The same release name installs in a second namespace, wherever the dashes fall."""
    kinds = {"PriorityClass", "ClusterRole", "ClusterRoleBinding"}
    names = [
        {
            (one["kind"], one["metadata"]["name"])
            for one in rendered(name, namespace)
            if one["kind"] in kinds
        }
        for name, namespace in (("fleet", "a"), ("fleet", "b"), ("b-fleet", "a"), ("fleet", "a-b"))
    ]

    assert all(names)
    assert len(set.union(*names)) == sum(map(len, names))


def test_every_pod_takes_placement_and_a_quota(tmp_path: Path) -> None:
    """Tolerations, node labels, limits and labels reach every pod of the chart."""
    limits = {"limits": {"cpu": "2"}}
    toleration = {"key": "team", "operator": "Exists"}
    values = {
        "placement": {"nodeSelector": {"pool": "a"}, "tolerations": [toleration]},
        "defaults": {"resources": limits},
        "safetySidecar": {"resources": limits},
        "redis": {"resources": limits},
        "auditWitness": {"resources": limits},
        "jobs": {"resources": limits},
        "podLabels": {"cost-center": "7"},
    }
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    found = rendered("fleet", "fleet", "-f", str(path))
    templates = {
        one["metadata"]["name"]: one if one["kind"] == "Pod" else one["spec"]["template"]
        for one in found
        if one["kind"] in {"Pod", "Job", "Deployment", "StatefulSet"}
    }
    pods = {name: template["spec"] for name, template in templates.items()}

    assert len(pods) >= 9
    for name, pod in pods.items():
        assert templates[name]["metadata"]["labels"]["cost-center"] == "7", name
        assert pod["nodeSelector"]["pool"] == "a", name
        assert toleration in pod["tolerations"], name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["resources"]["limits"]["cpu"] == "2", name
            assert container["resources"]["limits"]["memory"], name


def test_the_orchestrator_knows_the_tolerations_of_all_pods(tmp_path: Path) -> None:
    """It opens the nodes that they tolerate; a mission with GPUs has the list that it writes."""
    team = {"key": "team", "operator": "Exists"}
    gpus = {"gpus": [{"name": "primary"}]}
    path = tmp_path / "values.yaml"
    values = {"placement": {"tolerations": [team]}, "services": {"router": {"mission": gpus}}}
    path.write_text(yaml.safe_dump(values))
    found = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in rendered("bem-fleet", "fleet", "-f", str(path))
        if one["kind"] == "Deployment"
    }
    (orchestrator,) = found["bem-fleet-orchestrator"]["containers"]
    environment = {one["name"]: one.get("value") for one in orchestrator["env"]}

    assert json.loads(environment["BEM_ORCHESTRATOR_TOLERATIONS"]) == [team]
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert found["bem-fleet-router"]["tolerations"] == [gpu, team]
    assert found["bem-fleet-sep"]["tolerations"] == [team]


@pytest.mark.parametrize(
    "missing",
    [
        ["placement", "jobs", "ipFamilyPolicy"],
        ["redis", "auditWitness", "test"],
        ["tls", "access", "keys", "orchestration"],
        ["monitoring", "routes", "networkPolicy", "topologySpread", "priorityClasses"],
        ["defaults", "safetySidecar", "image"],
    ],
)
def test_values_of_an_older_chart_take_the_defaults(tmp_path: Path, missing: list[str]) -> None:
    """`--reuse-values` brings no new keys, and a block may be null: each takes its default."""
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(dict.fromkeys(missing)))

    assert rendered("fleet", "fleet", "-f", str(path)) == rendered("fleet", "fleet")


def test_what_a_person_removed_stays_removed(tmp_path: Path) -> None:
    """A service, a label and a falsehood are no missing defaults."""
    path = tmp_path / "values.yaml"
    removed = {
        "services": {"memory": None},
        "networkPolicy": {
            "monitoringNamespace": {"kubernetes.io/metadata.name": None, "team": "metrics"}
        },
        "priorityClasses": {"create": False},
    }
    path.write_text(yaml.safe_dump(removed))
    found = rendered("fleet", "fleet", "-f", str(path))
    names = {one["metadata"]["name"] for one in found if one["kind"] == "Deployment"}
    scrapers = [
        way["namespaceSelector"]["matchLabels"]
        for one in found
        if one["kind"] == "NetworkPolicy"
        for rule in one["spec"].get("ingress", [])
        for way in rule.get("from", [])
        if "namespaceSelector" in way
    ]

    assert "fleet-memory" not in names
    assert not [one for one in found if one["kind"] == "PriorityClass"]
    assert all(labels == {"team": "metrics"} for labels in scrapers)


def test_every_listener_takes_both_address_families() -> None:
    """Nothing listens on IPv4 alone, and Services ask for both families where there are both."""
    found = rendered("fleet", "fleet")
    policies = {one["spec"]["ipFamilyPolicy"] for one in found if one["kind"] == "Service"}

    assert "0.0.0.0" not in json.dumps(found)  # noqa: S104 - it is what must not be there
    assert policies == {"PreferDualStack"}


@pytest.mark.slow
@needs_kubernetes()
def test_a_scaled_and_promoted_mission_is_upgraded(plane: ControlPlane) -> None:
    """`kubectl scale` and a promotion are no conflicts: they stay until the values change."""
    mission = "/apis/fleet.bem.dev/v1alpha1/namespaces/fleet/missions/router"
    deployment = "/apis/apps/v1/namespaces/fleet/deployments/bem-fleet-router"
    upgrade(plane)
    first = plane.call("GET", deployment)
    scaled = {"spec": {"replicas": 2}}
    plane.call("PATCH", f"{mission}/scale?fieldManager=kubectl", scaled, kind="merge-patch+json")
    promoted = {"image": "registry.local/router:2", "env": {"BEM_ROUTER_ROWS": "3"}}
    env = [{"name": "BEM_ROUTER_ROWS", "value": "3"}]
    patch = {
        "metadata": {"annotations": {"fleet.bem.dev/promoted": json.dumps(promoted)}},
        "spec": {
            "template": {
                "spec": {"containers": [{"name": "router", "image": promoted["image"], "env": env}]}
            }
        },
    }
    kind = "strategic-merge-patch+json"
    written = plane.call("PATCH", f"{deployment}?fieldManager=bem-promotion", patch, kind=kind)
    # The orchestrator gives its fields up at once.
    others = [
        one for one in written["metadata"]["managedFields"] if one["manager"] != "bem-promotion"
    ]
    plane.merge(deployment, {"metadata": {"managedFields": others}})
    upgrade(plane, "services.gateway.replicas=2")
    kept = plane.call("GET", deployment)
    replicas = plane.call("GET", mission)["spec"]["replicas"]
    upgrade(plane, "image.tag=v9")
    (newer,) = plane.call("GET", deployment)["spec"]["template"]["spec"]["containers"]
    (container,) = kept["spec"]["template"]["spec"]["containers"]

    assert replicas == 2
    assert container["image"] == promoted["image"]
    assert {"name": "BEM_ROUTER_ROWS", "value": "3"} in container["env"]
    assert newer["image"].endswith("/router:v9")
    assert first["metadata"]["annotations"]["fleet.bem.dev/values-image"].endswith("/router:0.1.0")

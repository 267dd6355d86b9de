"""Rendered objects of the chart, for every set of values in charts/ci."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from bem_fleet.descriptors import Descriptor, load_descriptors
from fleet.access.keys import KeysFile, key_digest

from tests.charts.rendering import ROOT, VALUE_SETS, golden_of, objects, render, run

_FOREIGN = ("monitoring.coreos.com/", "keda.sh/", "fleet.bem.dev/", "cert-manager.io/")
_NAMES = [values.stem for values in VALUE_SETS]


@pytest.fixture(scope="module", params=VALUE_SETS, ids=_NAMES)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The objects of one set of values."""
    return objects(render(request.param))


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and specification of every pod that the objects create."""
    for each in found:
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], each["spec"]
        elif each["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all containers of a pod, the sidecars included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("values", VALUE_SETS, ids=_NAMES)
def test_chart_renders_what_was_reviewed(values: Path) -> None:
    """A change of the chart shows as a change of rendered YAML (`make golden` rewrites it)."""
    assert render(values) == golden_of(values).read_text()


def test_chart_is_linted_strictly() -> None:
    """Helm's own linter finds nothing, with any set of values."""
    for values in VALUE_SETS:
        done = run("lint", "--strict", str(ROOT / "charts"), "-f", str(values))
        assert done.returncode == 0, done.stdout + done.stderr


def test_objects_are_what_kubernetes_knows(rendered: list[dict[str, Any]]) -> None:
    """Every object of a built-in kind fits its schema; unknown fields are refused."""
    for each in rendered:
        if not each["apiVersion"].startswith(_FOREIGN):
            kubernetes_validate.validate(each, "1.37", strict=True)


def test_pods_meet_the_restricted_standard(rendered: list[dict[str, Any]]) -> None:
    """No root, no capability, no escalation, no writable root, default seccomp, a memory limit."""
    for name, pod in pods(rendered):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        knows_api = name.endswith("-orchestrator") or "-secrets-" in name
        assert pod["automountServiceAccountToken"] is knows_api, name
        assert pod["enableServiceLinks"] is False, name
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_mission_is_reached_through_its_sidecar_only(rendered: list[dict[str, Any]]) -> None:
    """A mission has no port and listens on a unix socket; the Service leads to the sidecar."""
    missions = [(name, pod) for name, pod in pods(rendered) if pod.get("initContainers")]
    assert missions

    for name, pod in missions:
        (sidecar,) = pod["initContainers"]
        (mission,) = pod["containers"]
        address = {e["name"]: e.get("value") for e in mission["env"]}
        service = next(
            e for e in rendered if e["kind"] == "Service" and e["metadata"]["name"] == name
        )
        assert sidecar["restartPolicy"] == "Always"
        assert sidecar["startupProbe"]["grpc"].get("service", "") == ""
        assert "ports" not in mission
        assert address[f"BEM_{mission['name'].upper()}_ADDRESS"] == "unix:/run/bem/mission.sock"
        assert [p["targetPort"] for p in service["spec"]["ports"]] == ["grpc"]
        assert {p["name"] for p in sidecar["ports"]} - {"health"} == {"grpc", "pages"}


def test_services_of_missions_select_stable_pods(rendered: list[dict[str, Any]]) -> None:
    """A mission's Service and Deployment select the stable track, and its pods carry it."""
    track = "fleet.bem.dev/track"
    for each in rendered:
        if each["kind"] == "Deployment" and "fleet.bem.dev/mission" in each["metadata"]["labels"]:
            name = each["metadata"]["name"]
            service = next(
                e for e in rendered if e["kind"] == "Service" and e["metadata"]["name"] == name
            )
            assert service["spec"]["selector"][track] == "stable"
            assert each["spec"]["selector"]["matchLabels"][track] == "stable"
            assert each["spec"]["template"]["metadata"]["labels"][track] == "stable"


def test_orchestrator_has_least_privilege() -> None:
    """No wildcard; it reads two Secrets by name; outside its namespace it reads nodes and pods."""
    values = next(v for v in VALUE_SETS if v.stem == "seed-allocation-values")
    roles = [e for e in objects(render(values)) if e["kind"] in {"Role", "ClusterRole"}]
    assert roles

    for role in roles:
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            if "secrets" in rule["resources"]:
                assert set(rule["resourceNames"]) == {"bem-fleet-keys", "bem-fleet-redis"}
                assert set(rule["verbs"]) == {"get", "list", "watch"}
            if role["kind"] == "ClusterRole":
                assert set(rule["verbs"]) == {"get", "list", "watch"}


def test_selectors_have_no_changing_labels(rendered: list[dict[str, Any]]) -> None:
    """An upgrade can replace every pod: no selector has a version or the chart's name."""
    for each in rendered:
        if each["kind"] in {"Deployment", "StatefulSet"}:
            assert set(each["spec"]["selector"]["matchLabels"]) - {"fleet.bem.dev/track"} == {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            }


def test_containers_are_probed(rendered: list[dict[str, Any]]) -> None:
    """Every server has a startup and a liveness probe, and its pod a readiness probe."""
    for name, pod in pods(rendered):
        if name.endswith("-test") or "-secrets-" in name:
            continue
        for container in containers(pod):
            assert {"startupProbe", "livenessProbe"} <= set(container), name
        assert any("readinessProbe" in container for container in containers(pod)), name


def test_a_busy_node_restarts_nothing(rendered: list[dict[str, Any]]) -> None:
    """Only what hangs for two minutes, or does not start in ten, is restarted.

    With ten pods that start at once on two cores, shorter limits restarted them for ever: no start
    came to its end, and the restarts kept the node busy.
    """
    for name, pod in pods(rendered):
        for container in containers(pod):
            liveness, startup = (container.get(f"{kind}Probe") for kind in ("liveness", "startup"))
            if liveness:
                assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 120, name
                assert liveness["timeoutSeconds"] >= 10, name
            if startup:
                assert startup["periodSeconds"] * startup["failureThreshold"] >= 600, name


def test_gateway_serves_https_with_a_certificate() -> None:
    """With a Secret the gateway is probed, scraped and tested over HTTPS only."""
    values = next(v for v in VALUE_SETS if v.stem == "gpu-values")
    found = objects(render(values, "services.gateway.tls.existingSecret=edge"))
    named = {(e["kind"], e["metadata"]["name"]): e for e in found}
    (container,) = named["Deployment", "bem-fleet-gateway"]["spec"]["template"]["spec"][
        "containers"
    ]
    probes = [container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")]
    (port,) = named["Service", "bem-fleet-gateway"]["spec"]["ports"]
    monitor = named["ServiceMonitor", "bem-fleet-gateway"]["spec"]["endpoints"][0]
    (test,) = named["Pod", "bem-fleet-inference-test"]["spec"]["containers"]

    assert {probe["httpGet"]["scheme"] for probe in probes} == {"HTTPS"}
    assert {"name": "BEM_GATEWAY_TLS", "value": "/run/tls"} in container["env"]
    assert port["appProtocol"] == "https"
    assert monitor["scheme"] == "https"
    assert test["env"][0]["value"].startswith("https://")


def test_missions_own_their_number_of_pods() -> None:
    """With the orchestrator, the Mission and not its Deployment is scaled."""
    values = next(v for v in VALUE_SETS if v.stem == "gpu-values")
    found = {
        (e["kind"], e["metadata"]["name"]): e["spec"]
        for e in objects(render(values))
        if "spec" in e
    }
    alone = {
        (e["kind"], e["metadata"]["name"]): e["spec"]
        for e in objects(render(values, "services.orchestrator.enabled=false"))
        if "spec" in e
    }
    scaled = ("ScaledObject", "bem-fleet-router")

    assert "replicas" not in found["Deployment", "bem-fleet-router"]
    assert "replicas" not in found["Mission", "router"]
    assert found[scaled]["scaleTargetRef"]["kind"] == "Mission"
    assert alone[scaled]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "bem-fleet-router",
    }
    assert ("Mission", "router") not in alone


def test_replicated_services_have_budgets() -> None:
    """Every service that has or may get more than one pod has a budget: a mission may be scaled."""
    values = next(v for v in VALUE_SETS if v.stem == "gpu-values")
    rendered = objects(render(values))
    found = {e["metadata"]["name"] for e in rendered if "Disruption" in e["kind"]}
    missions = {e["metadata"]["name"] for e in rendered if e["kind"] == "Mission"}

    assert missions >= {"router", "memory"}
    assert found == {f"bem-fleet-{name}" for name in ("gateway", "validation", *missions)}


def test_gpus_come_with_labels_and_tolerations() -> None:
    """A profile with GPUs sets node selector, toleration and the requested count."""
    values = next(v for v in VALUE_SETS if v.stem == "seed-allocation-values")
    pod = dict(pods(objects(render(values, "services.router.gpus=2"))))["bem-fleet-router"]
    asked = pod["containers"][0]["resources"]

    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert asked["limits"]["nvidia.com/gpu"] == asked["requests"]["nvidia.com/gpu"] == 2
    assert asked["limits"]["memory"]


def test_network_policies_list_every_caller() -> None:
    """Only the gateway is open to all; the router accepts its listed clients only."""
    values = next(v for v in VALUE_SETS if v.stem == "cpu-values")
    policies = {
        e["metadata"]["name"]: e["spec"]
        for e in objects(render(values))
        if e["kind"] == "NetworkPolicy"
    }
    router = policies["bem-fleet-router"]["ingress"]
    callers = [p["podSelector"]["matchLabels"] for p in router[0]["from"]]

    assert "ingress" not in policies["bem-fleet-default"]
    assert "from" not in policies["bem-fleet-gateway"]["ingress"][0]
    assert {c["app.kubernetes.io/component"] for c in callers} == {
        "gateway",
        "inference-test",
        "orchestrator",
        "validation",
    }
    assert router[0]["ports"] == [{"port": 50051}]
    assert all("from" in way for way in policies["bem-fleet-redis"]["ingress"])


def test_network_policies_take_ports_of_any_cluster() -> None:
    """DNS pods of OpenShift listen at 5353, and the API servers of distributions differ."""
    values = next(v for v in VALUE_SETS if v.stem == "cpu-values")
    shown = [
        {
            e["metadata"]["name"].removeprefix("bem-fleet-"): [
                port["port"] for way in e["spec"].get("egress", []) for port in way.get("ports", [])
            ]
            for e in objects(render(values, *sets))
            if e["kind"] == "NetworkPolicy"
        }
        for sets in ((), ("networkPolicy.dnsPorts={9}", "networkPolicy.apiServerPorts={8}"))
    ]

    assert set(shown[0]["default"]) == {53, 5353}
    assert {443, 6443, 8443, 16443} <= set(shown[0]["orchestrator"])
    assert shown[1]["default"] == [9, 9]
    assert 8 in shown[1]["orchestrator"]
    assert not {443, 6443, 8443, 16443} & set(shown[1]["orchestrator"])


def test_pods_of_a_canary_do_not_count_in_the_spread() -> None:
    """Only pods of the same template are compared, so that a rollout leaves no skew behind."""
    spreads = [
        spread
        for _, pod in pods(objects(render(VALUE_SETS[0])))
        for spread in pod.get("topologySpreadConstraints", [])
    ]

    assert spreads
    assert {tuple(spread["matchLabelKeys"]) for spread in spreads} == {("pod-template-hash",)}


def test_every_pod_takes_the_registrys_credentials() -> None:
    """A private registry needs no second setting for Redis, jobs or tests."""
    values = next(v for v in VALUE_SETS if v.stem == "shipped-values")
    found = dict(pods(objects(render(values, "image.pullSecrets[0]=own"))))

    assert {"bem-fleet-redis", "bem-fleet-witness", "bem-fleet-inference-test"} <= set(found)
    assert all(pod["imagePullSecrets"] == [{"name": "own"}] for pod in found.values())


def test_large_numbers_reach_the_pods_unchanged() -> None:
    """A setting of seven digits is not written as a float."""
    shown = render(VALUE_SETS[0], "services.gateway.settings.MAX_BODY_BYTES=2097152")

    assert 'value: "2097152"' in shown


def test_gateway_and_helm_test_know_every_mission() -> None:
    """The gateway's setting and the addresses of the helm test are loops over enabled missions."""
    found = objects(render(VALUE_SETS[0]))
    addresses = {
        one.name: f"bem-fleet-{one.name}.fleet.svc:{one.port}"
        for one in load_descriptors()
        if one.kind == "mission"
    }
    (test,) = [pod for name, pod in pods(found) if name.endswith("-inference-test")]
    (gateway,) = [pod for name, pod in pods(found) if name == "bem-fleet-gateway"]
    own = {each["name"]: each.get("value") for each in gateway["containers"][0]["env"]}
    given = {each["name"]: each.get("value") for each in test["containers"][0]["env"]}

    assert json.loads(own["BEM_GATEWAY_MISSIONS"]) == addresses
    assert given["MISSION_ADDRESSES"].split(",") == sorted(addresses.values())


def calls(one: Descriptor) -> bool:
    """Return whether a service calls others with a key of its own: the control services do."""
    return one.kind == "control"


def test_each_pod_gets_its_own_key_only() -> None:
    """Hashes go to every server; a secret to the service that it names, the operator's to none."""
    found = objects(render(next(v for v in VALUE_SETS if v.stem == "cpu-values")))
    (secret,) = [e for e in found if e["metadata"]["name"] == "bem-fleet-access"]
    keys = KeysFile.model_validate(yaml.safe_load(secret["stringData"]["keys.yaml"]))
    mounted = {
        name: {
            item["key"]
            for v in pod["volumes"]
            if v["name"] == "access"
            for item in v["secret"]["items"]
        }
        for name, pod in pods(found)
        if any(volume["name"] == "access" for volume in pod["volumes"])
    }

    assert mounted == {
        f"bem-fleet-{one.name}": {"keys.yaml", *([f"{one.name}.key"] if calls(one) else [])}
        for one in load_descriptors()
        if one.kind != "sidecar"
    }
    assert keys.anonymous.users == "never"
    assert {key.name: key.role for key in keys.keys if key.role != "user"} == {
        "operator": "operator",
        "orchestrator": "operator",
        "gateway": "service",
        "validation": "service",
    }
    for key in keys.keys:
        if text := secret["stringData"].get(f"{key.name}.key"):
            assert key.sha256 == (key_digest(text),)


def test_existing_secret_takes_the_place_of_the_charts() -> None:
    """The chart then makes no keys."""
    found = objects(render(next(v for v in VALUE_SETS if v.stem == "external-redis-values")))

    assert not [e for e in found if e["metadata"]["name"] == "bem-fleet-access"]
    assert "fleet-keys" in {
        volume["secret"]["secretName"]
        for _, pod in pods(found)
        for volume in pod["volumes"]
        if volume["name"] == "access"
    }

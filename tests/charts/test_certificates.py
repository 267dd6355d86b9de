"""TLS between pods in the chart: the authority, certificates, mounts, probes and upgrades."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bem_fleet.descriptors import load_descriptors
from bem_fleet.services.orchestrator.settings import OrchestratorSettings

from tests.charts.rendering import VALUE_SETS, objects, render

Found = dict[tuple[str, str], dict[str, Any]]
CPU = next(path for path in VALUE_SETS if path.name.startswith("cpu"))
GPU = next(path for path in VALUE_SETS if path.name.startswith("gpu"))
CA = "bem-fleet-ca"
PODS = [one.name for one in load_descriptors() if one.kind != "sidecar"]
GRPC = [one.name for one in load_descriptors() if one.kind != "sidecar" and one.proto]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without values."""
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    path.write_text("{}\n")
    return path


@pytest.fixture(scope="module")
def shipped(empty: Path) -> Found:
    """The objects of the shipped values, by kind and name."""
    return named(render(empty))


def named(text: str) -> Found:
    """Return the objects of a rendering by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in objects(text)}


def pods(found: Found) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and specification of each pod."""
    for (kind, name), one in found.items():
        if kind in ("Deployment", "StatefulSet", "Job"):
            yield name, one["spec"]["template"]["spec"]
        elif kind == "Pod":
            yield name, one["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all containers of a pod."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def wanted_names(found: Found) -> dict[str, set[str]]:
    """Return the names and addresses of each certificate that the Job makes, by Secret."""
    wanted = [
        json.loads(one["data"]["wanted.json"])
        for (kind, _), one in found.items()
        if kind == "ConfigMap" and "wanted.json" in one["data"]
    ]
    return {
        one["secret"]: {*one["names"], *one["addresses"]}
        for each in wanted
        for one in each.get("tls", {"certificates": []})["certificates"]
    }


def hosts(found: Found) -> set[str]:
    """Return the host names of all gRPC targets in the settings of all pods."""
    names: set[str] = set()
    for _, pod in pods(found):
        for container in containers(pod):
            for variable in container.get("env", []):
                key, value = variable["name"], variable.get("value", "")
                if key.endswith(("_MISSIONS", "_CANARIES")):
                    names |= {target.rpartition(":")[0] for target in json.loads(value).values()}
                # BEM_VALIDATION_ADDRESS of validation itself is where it listens.
                elif key.endswith(("_VALIDATION_ADDRESS", "_FLEET_ADDRESS")) and ".svc" in value:
                    names.add(value.rpartition(":")[0])
                elif key == "MISSION_ADDRESSES":
                    names |= {target.rpartition(":")[0] for target in value.split(",")}
    return names


def test_names_are_those_of_the_services_that_are_called(shipped: Found) -> None:
    """Every target in the settings, canaries and a forwarded port have a certificate's name."""
    made = wanted_names(shipped)
    names = {name: made[f"bem-fleet-{name}-tls"] for name in GRPC}
    template = str(OrchestratorSettings.model_fields["mission_address"].default)
    workload = shipped["Mission", "router"]["spec"]["workload"]
    called = hosts(shipped) | {
        template.format(service=name, namespace="fleet", port=1).rpartition(":")[0]
        for name in (workload, f"{workload}-canary")
    }

    assert called >= {"bem-fleet-router-canary.fleet.svc", "bem-fleet-orchestrator.fleet.svc"}
    for host in called:
        assert [name for name, known in names.items() if host in known], host
    for name, known in names.items():
        assert {"localhost", "127.0.0.1", f"bem-fleet-{name}"} <= known
    assert not names["router"] & names["validation"] - {"localhost", "127.0.0.1"}


def test_each_pod_has_its_own_certificate_only(shipped: Found) -> None:
    """Clients and servers of gRPC have one; the authority's key, and missions, have none."""
    mounted = {
        name: [v["secret"]["secretName"] for v in pod["volumes"] if v["name"] == "pod-tls"]
        for name, pod in pods(shipped)
    }
    holders = {
        container["name"]
        for _, pod in pods(shipped)
        for container in containers(pod)
        if any(mount["name"] == "pod-tls" for mount in container.get("volumeMounts", []))
    }

    assert {name: secrets for name, secrets in mounted.items() if secrets} == {
        "bem-fleet-inference-test": ["bem-fleet-client-tls"],
        **{f"bem-fleet-{name}": [f"bem-fleet-{name}-tls"] for name in PODS},
    }
    assert not holders & {one.name for one in load_descriptors() if one.kind == "mission"}
    assert f"secretName: {CA}" not in yaml.safe_dump(list(dict(pods(shipped)).values()))


@pytest.mark.parametrize("mode", ["mutual", "server", "off"])
def test_probes_use_a_port_without_tls(empty: Path, mode: str) -> None:
    """Kubelets speak no TLS: with it gRPC probes go to the health port, which no pod may call."""
    found = named(render(empty, f"tls.mode={mode}"))
    ports: set[int] = set()
    for _, pod in pods(found):
        for container in containers(pod):
            env = {one["name"]: one.get("value") for one in container.get("env", [])}
            modes = {value for key, value in env.items() if key.endswith("_TLS_MODE")}
            probes = [container[key]["grpc"] for key in container if "grpc" in container[key]]
            ports |= {probe["port"] for probe in probes}
            assert modes <= {mode}
            # A mission behind a sidecar listens on a socket of the pod: no TLS, no probe by port.
            behind_sidecar = any(
                key.endswith("_ADDRESS") and value and value.startswith("unix:")
                for key, value in env.items()
            )
            if probes and not (behind_sidecar and not modes):
                health = [key for key in env if key.endswith("_HEALTH_ADDRESS")]
                assert len(health) == len(modes) == (mode != "off")
                assert {"name": "health", "containerPort": 9465} in container["ports"] or not health
    admitted = {
        port["port"]
        for (kind, _), one in found.items()
        if kind == "NetworkPolicy"
        for way in one["spec"].get("ingress", [])
        for port in way["ports"]
    }

    served = {one.port for one in load_descriptors() if one.name in GRPC}
    assert ports == (served if mode == "off" else {9465})
    assert 9465 not in admitted


def test_bare_off_is_off(tmp_path: Path, empty: Path) -> None:
    """YAML reads a bare `off` as false; it means the same and leaves no trace of TLS."""
    bare = tmp_path / "values.yaml"
    bare.write_text("tls: {mode: off}\n")
    found = named(render(bare))

    assert not wanted_names(found)
    assert set(found) == set(named(render(empty, "tls.mode=off")))
    assert "pod-tls" not in render(bare)


@pytest.mark.parametrize("values", [CPU, GPU], ids=["existing", "issuer"])
def test_certificates_of_others_render_the_same_each_time(values: Path) -> None:
    """With existing Secrets or an issuer the chart makes none, and GitOps sees no change."""
    text = render(values)
    found = named(text)
    secrets = {
        volume["secret"]["secretName"]
        for _, pod in pods(found)
        for volume in pod["volumes"]
        if volume["name"] == "pod-tls"
    }
    issued = {
        one["spec"]["secretName"]: one["spec"]
        for (kind, _), one in found.items()
        if kind == "Certificate"
    }

    assert not wanted_names(found)
    assert render(values) == text
    if values is CPU:
        assert secrets == {f"fleet-tls-{name}" for name in ("client", *PODS)}
        return
    assert set(issued) == secrets
    assert set(issued["bem-fleet-router-tls"]["usages"]) >= {"server auth", "client auth"}
    assert "bem-fleet-router-canary.fleet.svc" in issued["bem-fleet-router-tls"]["dnsNames"]


def test_routes_lead_to_no_pod_that_asks_for_a_certificate(empty: Path) -> None:
    """By default only the gateway has a route then; naming a mission says what to do."""
    routes = ("routes.enabled=true", "routes.parentRefs[0].name=edge")
    kinds = [kind for kind, _ in named(render(empty, *routes)) if kind.endswith("Route")]

    assert kinds == ["HTTPRoute"]
    with pytest.raises(ValueError, match=r"routes\.services names router"):
        render(empty, *routes, "routes.services[0]=router")

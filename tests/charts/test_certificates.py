"""TLS between pods in the chart: the authority, certificates, mounts, probes and upgrades."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bem_fleet.descriptors import load_descriptors
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.certificates import CertificateFolder

from tests.charts.rendering import CHART, VALUE_SETS, objects, render
from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.support.requirements import require

Found = dict[tuple[str, str], dict[str, Any]]
CPU = next(path for path in VALUE_SETS if path.name.startswith("cpu"))
GPU = next(path for path in VALUE_SETS if path.name.startswith("gpu"))
CA = "bem-fleet-ca"
PODS = [one.name for one in load_descriptors() if one.kind != "sidecar"]
GRPC = [one.name for one in load_descriptors() if one.kind != "sidecar" and one.proto]
YEAR_S = 365 * 86_400


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


def certificates(found: Found) -> dict[str, dict[str, str]]:
    """Return the files of each Secret with a certificate, by the Secret's name."""
    return {
        name: {key: base64.b64decode(text).decode() for key, text in one["data"].items()}
        for (kind, name), one in found.items()
        if kind == "Secret" and one.get("type") == "kubernetes.io/tls"
    }


def dns_names(folder: Path) -> set[str]:
    """Return the alternative names of a certificate, as openssl reads it."""
    command = ["openssl", "x509", "-in", str(folder / "tls.crt"), "-noout"]
    shown = subprocess.run(
        [*command, "-ext", "subjectAltName"], check=True, capture_output=True, text=True
    ).stdout
    names = shown.splitlines()[-1].split(",")
    return {name.strip().removeprefix("DNS:").removeprefix("IP Address:") for name in names}


def written(folder: Path, files: dict[str, str]) -> Path:
    """Write the files of a Secret into a folder, as a mount does."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


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


def test_certificates_are_accepted_and_last_for_years(shipped: Found, tmp_path: Path) -> None:
    """Each is good for both ends of a connection under the chart's authority, for ten years."""
    made = certificates(shipped)
    authority = made.pop(CA)

    assert set(made) == {f"bem-fleet-{name}-tls" for name in ("client", *PODS)}
    assert len({files["tls.key"] for files in (authority, *made.values())}) == len(made) + 1
    for name, files in made.items():
        folder = written(tmp_path / name, files)
        assert files["ca.crt"] == authority["tls.crt"]
        assert CertificateFolder(folder).seconds_to_expiry() > 9 * YEAR_S


def test_names_are_those_of_the_services_that_are_called(shipped: Found, tmp_path: Path) -> None:
    """Every target in the settings, canaries and a forwarded port have a certificate's name."""
    made = certificates(shipped)
    names = {
        name: dns_names(written(tmp_path / name, made[f"bem-fleet-{name}-tls"])) for name in GRPC
    }
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

    assert not certificates(found)
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

    assert not certificates(found)
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


@pytest.mark.slow
@needs_kubernetes()
def test_upgrades_keep_certificates_until_they_are_renewed(tmp_path: Path) -> None:
    """An upgrade changes nothing; `renewal` makes new certificates of the same authority."""
    plane = ControlPlane(tmp_path)
    helm = [require("helm"), "--kubeconfig", str(plane.kubeconfig), "-n", "default"]

    def secrets(*words: str) -> dict[str, Any]:
        subprocess.run(
            [*helm, words[0], "bem-fleet", str(CHART), "--no-hooks", *words[1:]],
            check=True,
            capture_output=True,
            env={**os.environ, "HELM_CACHE_HOME": str(tmp_path / "helm")},
        )
        items = plane.call("GET", "/api/v1/namespaces/default/secrets")["items"]
        return {
            one["metadata"]["name"]: one["data"]
            for one in items
            if one["type"] == "kubernetes.io/tls"
        }

    try:
        plane.start()
        first = secrets("install")
        again = secrets("upgrade")
        grown = secrets("upgrade", "--set", "services.other.port=50071")
        renewed = secrets("upgrade", "--set", "tls.renewal=2027")
    finally:
        plane.stop()

    assert again == first
    assert CA in first
    assert {name: grown[name] for name in first} == first
    assert set(grown) - set(first) == {"bem-fleet-other-tls"}
    assert set(renewed) == set(first)
    for name, data in renewed.items():
        assert (data == first[name]) is (name == CA)
        assert data.get("ca.crt", first[CA]["tls.crt"]) == first[CA]["tls.crt"]

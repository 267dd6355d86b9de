"""A bare Kubernetes control plane, etcd and an API server, on free ports, as envtest has it."""

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet.testing import free_port

from tests.support.requirements import find, requires

ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "charts/crds/missions.yaml"
TOKEN = "test-token"
START_S = 240.0
Object = dict[str, Any]


def needs_kubernetes() -> pytest.MarkDecorator:
    """Return the marker of tests that need the binaries of a control plane."""
    return requires("etcd", "kube-apiserver")


class ControlPlane:
    """etcd and an API server that can be killed and started again with their data.

    Args:
        folder: Keys and data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._etcd_port, self._peer_port = free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        key = ["openssl", "genrsa", "-out", str(folder / "sa.key"), "2048"]
        subprocess.run(key, check=True, capture_output=True)
        (folder / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        self.kubeconfig = folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "t",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.port}",
                        "insecure-skip-tls-verify": True,
                    },
                }
            ],
            "users": [{"name": "t", "user": {"token": TOKEN}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
            "current-context": "t",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self._tls = ssl._create_unverified_context()  # noqa: S323 - a server of this test's own

    def start(self) -> None:
        """Start both and return when the API server is ready."""
        self._run(
            "etcd",
            "--data-dir",
            str(self.folder / "etcd"),
            "--listen-client-urls",
            f"http://127.0.0.1:{self._etcd_port}",
            "--advertise-client-urls",
            f"http://127.0.0.1:{self._etcd_port}",
            "--listen-peer-urls",
            f"http://127.0.0.1:{self._peer_port}",
            "--unsafe-no-fsync",
        )
        self.start_api()

    def start_api(self) -> None:
        """Start the API server alone."""
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-key-file={self.folder / 'sa.key'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount,Priority,TaintNodesByCondition",
        )
        limit = time.monotonic() + START_S
        while time.monotonic() < limit:
            try:
                self.call("GET", "/readyz", raw=True)
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.1)  # another program, without an event to wait for
            else:
                return
        raise TimeoutError(f"kube-apiserver is not ready after {START_S:g} s; see {self.folder}")

    def kill_api(self) -> None:
        """End the API server without a word."""
        self._end("kube-apiserver")

    def stop(self) -> None:
        """End both."""
        for name in list(self._processes):
            self._end(name)

    def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        kind: str = "",
        raw: bool = False,
    ) -> Any:
        """Send a request as an administrator; ``kind`` is a patch's content type."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": f"application/{kind or 'json'}",
            },
        )
        with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:  # noqa: S310
            text = answer.read()
        return text if raw else json.loads(text)

    def merge(self, path: str, body: Object) -> Any:
        """Patch an object as ``kubectl patch --type=merge`` does."""
        return self.call("PATCH", path, body, kind="merge-patch+json")

    def install_crd(self) -> None:
        """Create the Mission resource and return when it is served."""
        crd = yaml.safe_load(CRD.read_text())
        self.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        limit = time.monotonic() + START_S
        while time.monotonic() < limit:
            try:
                self.call("GET", "/apis/fleet.bem.dev/v1alpha1/missions")
            except urllib.error.HTTPError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError("the Mission resource is not served")

    def _run(self, name: str, *arguments: str) -> None:
        command = [find(name) or name, *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:  # the child keeps its own copy
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Run a control plane with the Mission resource; ended with the block."""
    made = ControlPlane(folder)
    try:
        made.start()
        made.install_crd()
        yield made
    finally:
        made.stop()


def mission(name: str, **spec: Any) -> Object:
    """Return a Mission object."""
    return {
        "apiVersion": "fleet.bem.dev/v1alpha1",
        "kind": "Mission",
        "metadata": {"name": name},
        "spec": spec,
    }


def gpu_node(name: str, product: str, gpus: int, **labels: str) -> Object:
    """Return a ready Node that offers GPUs."""
    offered = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": product, **labels},
        },
        "status": {
            "allocatable": offered,
            "capacity": offered,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def deployment(name: str, image: str = "registry.local/mission:1") -> Object:
    """Return the Deployment of a mission as the chart renders it."""
    labels = {
        "app.kubernetes.io/name": name,
        "fleet.bem.dev/mission": name,
        "fleet.bem.dev/track": "stable",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "mission", "image": image}]},
            },
        },
    }

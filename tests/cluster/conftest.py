"""One installation of the fleet for all tests on a real Kubernetes."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.cluster import kubernetes_cli
from tests.cluster.kubernetes_cli import ROOT, TOOL, Release, run

BASE = "docker.io/library/python:3.11-slim"


@pytest.fixture(scope="session")
def cluster() -> None:
    """A running Kubernetes with the images of this tree, or a skip that says what is missing."""
    if reason := kubernetes_cli.missing():
        pytest.skip(reason)
    if not (os.environ.get("KUBECONFIG") or shutil.which("kind")):
        run(TOOL, "up", timeout_s=3600)
        run(TOOL, "base", BASE, timeout_s=1200)
    run(ROOT / "docker" / "build.sh", timeout_s=3600)


@pytest.fixture(scope="session")
def release(cluster: None) -> Iterator[Release]:  # noqa: ARG001 - only its effect is needed
    """The fleet, installed into a namespace that admits restricted pods only."""
    made = Release()
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}"
    label = "pod-security.kubernetes.io/enforce: restricted"
    run("kubectl", "apply", "-f", "-", given=namespace % (made.namespace, label))
    if not os.environ.get("KUBECONFIG"):
        run(TOOL, "volume", f"{made.namespace}-redis", "4")
    made.helm("install", "charts", "--wait", "--timeout", "15m")
    yield made
    if made.name in run("helm", "list", "-q", "-n", made.namespace):
        made.helm("uninstall", "--wait")
    run("kubectl", "delete", "namespace", made.namespace)

"""One installation of the fleet for all tests on a real Kubernetes."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import kubernetes_cli
from tests.cluster.adapters import write_variants
from tests.cluster.kubernetes_cli import ROOT, TOOL, CommandError, Release, run
from tests.cluster.watching import Prometheus, prometheus

BASE = "docker.io/library/python:3.11-slim"


def _own() -> bool:
    """Whether the cluster is the one that TOOL makes."""
    return not (os.environ.get("KUBECONFIG") or shutil.which("kind"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A running Kubernetes with the images of this tree; one that is started here is ended here.

    Where there can be none the tests are skipped with the reason, which pytest prints at the end.
    BEM_IMAGES_LOADED=1 leaves the building of images out: a registry or an earlier run has them.
    """
    if reason := kubernetes_cli.missing():
        pytest.skip(reason)
    started = False
    if _own():
        started = "running" not in run(TOOL, "status")
        try:
            run(TOOL, "up", timeout_s=3600)
        except CommandError as err:
            # No namespaces, no cgroups, no sources: what a machine lacks is no fault of the fleet.
            pytest.skip(f"no cluster comes up on this machine: {str(err)[-1500:]}")
        run(TOOL, "base", BASE, timeout_s=1200)
    try:
        if not os.environ.get("BEM_IMAGES_LOADED"):
            run(ROOT / "docker" / "build.sh", timeout_s=3600)
        yield
    finally:
        if started:
            run(TOOL, "down")


@pytest.fixture(scope="session")
def release(cluster: None) -> Iterator[Release]:  # noqa: ARG001 - only its effect is needed
    """The fleet with the shipped values, in a namespace that admits restricted pods only."""
    made = Release()
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}"
    label = "pod-security.kubernetes.io/enforce: restricted"
    run("kubectl", "apply", "-f", "-", given=namespace % (made.namespace, label))
    if _own():
        run(TOOL, "volume", f"{made.namespace}-redis", "4")
    try:
        made.helm("install", "charts", "--wait", "--timeout", "15m")
        yield made
    except CommandError as err:
        pods = made.kubectl("get", "pods,events", "-o", "wide")
        raise CommandError(f"{err}\n{pods}") from err
    finally:
        if made.name in run("helm", "list", "-q", "-n", made.namespace):
            made.helm("uninstall", "--wait")
        run("kubectl", "delete", "namespace", made.namespace, "--timeout=180s")
        run("kubectl", "delete", "crd", "missions.fleet.bem.dev", "--ignore-not-found")


@pytest.fixture(scope="session", autouse=True)
def _watching(
    release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus | None]:
    """A Prometheus that scrapes the release from the first test on.

    Only where the node is this machine: pods are reached from there alone.
    """
    if not _own():
        yield None
        return
    with prometheus(release, tmp_path_factory.mktemp("prometheus")) as made:
        yield made


@pytest.fixture
def watched(_watching: Prometheus | None) -> Prometheus:
    """The Prometheus that has watched all tests before."""
    if _watching is None:
        pytest.skip("pods can be scraped from here only where the node is this machine")
    return _watching


@pytest.fixture(scope="session")
def adapters(release: Release) -> str:
    """The claim of a volume with the shipped adapters, one as good, and one that is bad."""
    if not _own():
        pytest.skip("files can be put into a volume only where the node is this machine")
    name, size = f"{release.namespace}-adapters", "1"
    folder = Path(run(TOOL, "volume", name, size).split()[-1])
    shutil.copytree(ROOT / "adapters", folder, dirs_exist_ok=True)
    write_variants(ROOT / "adapters" / "passage-qa", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": name,
        "resources": {"requests": {"storage": f"{size}Gi"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "adapters"},
        "spec": spec,
    }
    release.kubectl("apply", "-f", "-", given=json.dumps(claim))
    return "adapters"

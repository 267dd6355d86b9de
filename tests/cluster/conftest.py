"""One installation of the fleet for all tests on a real Kubernetes."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import kubernetes_cli
from tests.cluster.canary_adapters import write_canary_adapters
from tests.cluster.client import client_pods
from tests.cluster.kubernetes_cli import CLUSTER_TOOL, ROOT, CommandError, Release, run
from tests.cluster.prometheus import run_prometheus
from tests.support.prometheus import Prometheus
from tests.support.requirements import unavailable
from tests.support.stages import sort_by_stage

# The tests share one release, so their order is part of the scenario. Placement comes after
# recovery because a forced deletion of the router would move its GPU; monitoring needs the traffic
# and the canaries before it; removal uninstalls the release.
STAGES = (
    "installed",
    "commands",
    "network",
    "tls",
    "recovery",
    "placement",
    "upgrade",
    "canaries",
    "monitoring",
    "autoscaling",
    "removal",
)
BASE_IMAGE = "docker.io/library/python:3.11-slim"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of this folder into the order of the scenario."""
    sort_by_stage(items, Path(__file__).parent, STAGES)


def _uses_local_cluster() -> bool:
    """Return whether the cluster is the one that CLUSTER_TOOL builds on this machine."""
    return not (os.environ.get("KUBECONFIG") or shutil.which("kind"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A running Kubernetes with the images of this tree; one that is started here is ended here.

    Where no cluster can be started the tests are skipped with the reason; under CI they fail.
    BEM_IMAGES_LOADED=1 leaves the building of images out: a registry or an earlier run has them.
    """
    if reason := kubernetes_cli.missing_prerequisite():
        unavailable(reason)
    started = False
    if _uses_local_cluster():
        started = "running" not in run(CLUSTER_TOOL, "status")
        try:
            run(CLUSTER_TOOL, "up", timeout_s=3600)
        except CommandError as err:
            # Namespaces, cgroups or sources that a machine lacks are no fault of the fleet.
            unavailable(f"no cluster starts on this machine: {str(err)[-1500:]}")
        run(CLUSTER_TOOL, "base", BASE_IMAGE, timeout_s=1200)
    try:
        if not os.environ.get("BEM_IMAGES_LOADED"):
            run(ROOT / "docker" / "build.sh", timeout_s=3600)
        yield
    finally:
        if started:
            run(CLUSTER_TOOL, "down")


def prepare_namespace(release: Release) -> None:
    """Make the release's namespace, which admits restricted pods only, and its volumes."""
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}"
    label = "pod-security.kubernetes.io/enforce: restricted"
    run("kubectl", "apply", "-f", "-", stdin=namespace % (release.namespace, label))
    if _uses_local_cluster():
        run(CLUSTER_TOOL, "volume", f"{release.namespace}-redis", "4")
        run(CLUSTER_TOOL, "volume", f"{release.namespace}-witness", "1")


@contextmanager
def removed_afterwards(release: Release) -> Iterator[None]:
    """Remove the release and its namespace; an error of the installation shows pods and events."""
    try:
        yield
    except CommandError as err:
        pods = release.kubectl("get", "pods,events", "-o", "wide")
        raise CommandError(f"{err}\n{pods}") from err
    finally:
        if release.name in run("helm", "list", "-q", "-n", release.namespace):
            release.helm("uninstall", "--wait")
        run("kubectl", "delete", "namespace", release.namespace, "--timeout=180s")
        run("kubectl", "delete", "crd", "missions.fleet.bem.dev", "--ignore-not-found")


@pytest.fixture(scope="session")
def release(cluster: None) -> Iterator[Release]:  # noqa: ARG001 - only its effect is needed
    """The fleet with the shipped values."""
    installed = Release()
    prepare_namespace(installed)
    with removed_afterwards(installed):
        installed.helm("install", "charts", "--wait", "--timeout", "15m")
        with client_pods(installed):
            yield installed


@pytest.fixture(scope="session", autouse=True)
def _scraping(
    release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus | None]:
    """A Prometheus that scrapes the release from the first test on.

    Pods are reached from this machine only where the node is this machine.
    """
    if not _uses_local_cluster():
        yield None
        return
    with run_prometheus(release, tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture
def prometheus(_scraping: Prometheus | None) -> Prometheus:
    """The Prometheus that has scraped the release during all tests before."""
    if _scraping is None:
        unavailable("pods can be scraped only where the node is this machine; unset KUBECONFIG")
    return _scraping


@pytest.fixture(scope="session")
def adapters(release: Release) -> str:
    """The claim of a volume with the shipped adapters, an equally good one and a bad one."""
    if not _uses_local_cluster():
        unavailable("volumes are filled only where the node is this machine; unset KUBECONFIG")
    name, size = f"{release.namespace}-adapters", "1"
    folder = Path(run(CLUSTER_TOOL, "volume", name, size).split()[-1])
    shutil.copytree(ROOT / "adapters", folder, dirs_exist_ok=True)
    write_canary_adapters(ROOT / "adapters" / "passage-qa", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "adapters"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "volumeName": name,
            "resources": {"requests": {"storage": f"{size}Gi"}},
        },
    }
    release.kubectl("apply", "-f", "-", stdin=json.dumps(claim))
    return "adapters"

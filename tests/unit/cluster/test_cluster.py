"""Local cluster builder: ``k8s/local-cluster/cluster``."""

import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bem_fleet.checkout import ROOT

TOOL = ROOT / "k8s/local-cluster/cluster"
# kubectl asks the default address of an API server when its KUBECONFIG does not exist.
KUBECTL = """#!/bin/sh
if [ -f "$KUBECONFIG" ]; then exit 1; fi
exec curl -fsS --max-time 3 "http://127.0.0.1:{port}/readyz"
"""


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers every path with 200, as the gateway answers ``/readyz``."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def other_server() -> Iterator[int]:
    """Port of a server that is no API server: 8080, or another where 8080 is in use."""
    try:
        server = http.server.HTTPServer(("127.0.0.1", 8080), Ready)
    except OSError:
        server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def run(home: Path, *arguments: str, **variables: str) -> str:
    """Run the tool with an empty home and return what it prints."""
    environment = {**os.environ, "BEM_CLUSTER_HOME": str(home), **variables}
    environment.pop("KUBECONFIG", None)
    return subprocess.run(
        [TOOL, *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_other_server_is_no_cluster(tmp_path: Path, other_server: int) -> None:
    """A gateway that answers /readyz on the default port does not count as a running cluster."""
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.write_text(KUBECTL.format(port=other_server))
    kubectl.chmod(0o755)
    reached = subprocess.run(
        [kubectl], env={**os.environ, "KUBECONFIG": "/nowhere"}, check=False, capture_output=True
    )

    assert reached.returncode == 0
    assert run(tmp_path, "status").strip() == "stopped"


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Log of a buildah whose store has an image of localhost/known and whose builds fail."""
    (tmp_path / "bin").mkdir()
    buildah, log = tmp_path / "bin" / "buildah", tmp_path / "calls"
    buildah.write_text(
        f"""#!/bin/sh
echo "$*" >>{log}
case "$*" in *" bud "*) exit 7;; *"images -q localhost/known") echo 0a1b;; esac
"""
    )
    buildah.chmod(0o755)
    return log


@pytest.mark.parametrize(("gib", "removes"), [("0", False), ("1000000", True)])
def test_full_disk_loses_what_builds_left(
    tmp_path: Path, calls: Path, gib: str, removes: bool
) -> None:
    """Before a build: interrupted ones' containers and images without a tag, this tool's alone."""
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path, "image", "localhost/known:2", BEM_CLUSTER_FIRST_GIB=gib)

    made = [line.split() for line in calls.read_text().splitlines()]
    assert all(call[:2] == ["--root", str(tmp_path / "storage")] for call in made)
    removing = [["rm", "-a"], ["rmi", "--prune"], ["images", "-q", "localhost/known"]]
    assert [call[4:] for call in made[:-1]] == (removing if removes else [])
    assert made[-1][4] == "bud"


def test_first_build_on_a_full_disk_is_refused(tmp_path: Path, calls: Path) -> None:
    """One line says what is free, what is needed and what to do; a later build needs less."""
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run(tmp_path, "image", "localhost/new:1", BEM_CLUSTER_FIRST_GIB="1000000")

    assert "a build needs 1000000; free some, or remove" in refused.value.stderr
    assert len(refused.value.stderr.splitlines()) == 1
    assert " bud " not in calls.read_text()


def test_help_lists_every_command() -> None:
    """Each command of the script is explained at its head."""
    done = subprocess.run([TOOL], check=False, capture_output=True, text=True)
    listed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  cluster ")}
    cases = TOOL.read_text().rpartition("case $command in")[2].partition("*)")[0]
    known = {
        word.removesuffix(")") for word in cases.replace(";;", " ").split() if word.endswith(")")
    }

    assert listed == known
    assert done.returncode == 2


def test_manifests_of_the_folder_are_objects() -> None:
    """The namespace admits restricted pods only, and kind's cluster has the name that is used."""
    namespace = yaml.safe_load((ROOT / "k8s/namespace.yaml").read_text())
    kind = yaml.safe_load((ROOT / "k8s/kind.yaml").read_text())

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert kind["name"] == namespace["metadata"]["name"] == "bem-fleet"

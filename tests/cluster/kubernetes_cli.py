"""Command-line client of the tests: kubectl and helm on the local cluster or KUBECONFIG's."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from fleet.testing import free_port

ROOT = Path(__file__).resolve().parents[2]
CLUSTER_TOOL = ROOT / "k8s" / "local-cluster" / "cluster"
T = TypeVar("T")


class CommandError(Exception):
    """Raised when a command fails; the text is the command and its output."""


def missing_prerequisite() -> str | None:
    """Return what this machine lacks for a cluster, None if it lacks nothing."""
    if os.environ.get("KUBECONFIG") or shutil.which("kind"):
        return None
    if os.geteuid():
        return "the local cluster needs root (or set KUBECONFIG, or install Docker and kind)"
    if shutil.which("apt-get") is None or shutil.which("gcc") is None:
        return "the local cluster needs Debian's packages and a C compiler"
    built = (Path(environment()["BEM_CLUSTER_BIN"]) / "kubelet").exists()
    return None if built or shutil.which("go") else "the local cluster is built with Go: install it"


def environment() -> dict[str, str]:
    """Return the environment with KUBECONFIG and with kubectl and helm on PATH."""
    variables = dict(os.environ)
    if "KUBECONFIG" in variables or shutil.which("kind"):
        return variables
    printed = _local_cluster_variables()
    variables["BEM_CLUSTER_BIN"] = printed.partition("PATH=")[2].partition(":")[0]
    for part in printed.split()[1:]:
        name, _, value = part.partition("=")
        variables[name] = value.replace("$PATH", variables["PATH"])
    return variables


@cache
def _local_cluster_variables() -> str:
    """Return what the cluster tool prints for a shell; its start does not change it."""
    return subprocess.run([CLUSTER_TOOL, "env"], capture_output=True, text=True, check=True).stdout


def run(*command: str | Path, timeout_s: float = 300, stdin: str | None = None) -> str:
    """Run a command from the repository's root and return its standard output.

    Raises:
        CommandError: The exit status is not 0.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    if done.returncode:
        raise CommandError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Release:
    """An installed Helm release of the fleet.

    Attributes:
        name: Name of the release.
        namespace: Namespace of the release.
    """

    name: str = "bem-fleet"
    namespace: str = "bem-fleet"

    def kubectl(self, *arguments: str, timeout_s: float = 300, stdin: str | None = None) -> str:
        """Run kubectl in the release's namespace."""
        return run("kubectl", "-n", self.namespace, *arguments, timeout_s=timeout_s, stdin=stdin)

    def helm(self, verb: str, *arguments: str, timeout_s: float = 900) -> str:
        """Run a helm command on the release."""
        where = ["-n", self.namespace, *arguments]
        return run("helm", verb, self.name, *where, timeout_s=timeout_s)

    def api_key(self, name: str = "user") -> str:
        """Return a key of the release's Secret."""
        command = ("get", "secret", f"{self.name}-access", "-o", "json")
        stored: dict[str, str] = json.loads(self.kubectl(*command))["data"]
        return base64.b64decode(stored[f"{name}.key"]).decode()

    def headers(self, name: str = "user") -> dict[str, str]:
        """Return the HTTP headers of a request with a key of the release."""
        return {"Authorization": f"Bearer {self.api_key(name)}"}

    def objects(self, kinds: str) -> list[dict[str, Any]]:
        """Return the release's objects of these kinds."""
        label = f"app.kubernetes.io/instance={self.name}"
        printed = self.kubectl("get", kinds, "-l", label, "-o", "json")
        items: list[dict[str, Any]] = json.loads(printed)["items"]
        return items

    def pod(self, component: str) -> dict[str, Any]:
        """Wait until one pod of a component does not terminate, and return it."""

        def only_pod() -> dict[str, Any] | None:
            running = [
                pod
                for pod in self.objects("pods")
                if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component
                and "deletionTimestamp" not in pod["metadata"]
            ]
            return running[0] if len(running) == 1 else None

        return wait_for(only_pod, f"one pod of {component}", limit_s=60)

    def revision(self) -> int:
        """Return the number of the installed revision."""
        return int(json.loads(self.helm("status", "-o", "json"))["version"])

    def mission(self, name: str) -> dict[str, Any]:
        """Return a Mission; the status of a new one is empty."""
        mission: dict[str, Any] = json.loads(self.kubectl("get", "mission", name, "-o", "json"))
        return {"status": {}, **mission}

    def condition(self, name: str, kind: str, status: str) -> dict[str, Any] | None:
        """Return a Mission's condition, None if its status is another."""
        conditions: list[dict[str, Any]] = self.mission(name)["status"].get("conditions", [])
        return next((c for c in conditions if (c["type"], c["status"]) == (kind, status)), None)

    def patch_mission(self, name: str, patch: dict[str, Any]) -> None:
        """Apply a merge patch to a Mission, as an operator does."""
        self.kubectl("patch", "mission", name, "--type=merge", "-p", json.dumps(patch))

    def wait_for_rollout(self) -> None:
        """Wait until every Deployment and StatefulSet has rolled out."""
        for each in self.objects("deployments,statefulsets"):
            name = f"{each['kind'].lower()}/{each['metadata']['name']}"
            self.kubectl("rollout", "status", name, "--timeout=300s", timeout_s=330)

    def redis(self, *command: str) -> str:
        """Run redis-cli in the release's Redis, with the login of its administrator."""
        script = 'REDISCLI_AUTH=$(cat /run/secrets/redis/admin) exec redis-cli --user admin "$@"'
        shell = ("--", "sh", "-c", script, "redis-cli")
        return self.kubectl("exec", f"{self.name}-redis-0", *shell, *command)

    @contextmanager
    def port_forward(self, component: str, port: int) -> Iterator[int]:
        """Yield a local port that is forwarded to a component's Service."""
        local = free_port()
        target = [f"svc/{self.name}-{component}", f"{local}:{port}"]
        process = subprocess.Popen(
            ["kubectl", "-n", self.namespace, "port-forward", *target],
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_for_listener(local)
            yield local
        finally:
            process.terminate()
            process.wait()


def wait_for(
    condition: Callable[[], T | None], name: str, limit_s: float = 120, interval_s: float = 0.5
) -> T:
    """Poll a condition and return its first true value.

    Args:
        condition: Function that returns a true value at last.
        name: Name of the condition in the error.
        limit_s: Longest time to wait, in seconds.
        interval_s: Pause between two calls, in seconds; a kubectl takes a tenth of a core-second.

    Raises:
        CommandError: The condition is not true within the limit.
    """
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        if value := condition():
            return value
        time.sleep(interval_s)  # another program: there is no event to wait for
    raise CommandError(f"{name}: not reached within {limit_s:g} s")


def _wait_for_listener(port: int) -> None:
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)  # another program's port: there is no event to wait for
        else:
            return
    raise CommandError(f"port-forward does not listen on {port} after 30 s")

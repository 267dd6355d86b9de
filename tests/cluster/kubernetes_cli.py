"""kubectl and helm as the tests call them, against the cluster of this machine or KUBECONFIG's."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fleet.testing import free_port

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tests" / "cluster" / "cluster"
T = TypeVar("T")


class CommandError(Exception):
    """A command failed; the text is what it was and what it said."""


def missing() -> str | None:
    """Return why there can be no cluster on this machine, None if there can."""
    if os.environ.get("KUBECONFIG") or shutil.which("kind"):
        return None
    if os.geteuid():
        return "a cluster of one's own needs root (or set KUBECONFIG, or install Docker and kind)"
    if shutil.which("apt-get") is None or shutil.which("gcc") is None:
        return "a cluster of one's own needs Debian's packages and a C compiler"
    built = (Path(environment()["BEM_CLUSTER_BIN"]) / "kubelet").exists()
    return None if built or shutil.which("go") else "a cluster of one's own is built with Go"


def environment() -> dict[str, str]:
    """Return the environment with KUBECONFIG and with kubectl and helm on PATH."""
    found = dict(os.environ)
    if "KUBECONFIG" in found or shutil.which("kind"):
        return found
    printed = subprocess.run([TOOL, "env"], capture_output=True, text=True, check=True).stdout
    found["BEM_CLUSTER_BIN"] = printed.partition("PATH=")[2].partition(":")[0]
    for part in printed.split()[1:]:
        name, _, value = part.partition("=")
        found[name] = value.replace("$PATH", found["PATH"])
    return found


def run(*command: str | Path, timeout_s: float = 300, given: str | None = None) -> str:
    """Run a command from the repository's root and return what it printed.

    Raises:
        CommandError: Its exit status is not 0.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(),
        input=given,
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
    """One installation.

    Attributes:
        name: Of the release.
        namespace: Where it is.
    """

    name: str = "bem-fleet"
    namespace: str = "bem-fleet"

    def kubectl(self, *arguments: str, timeout_s: float = 300, given: str | None = None) -> str:
        """Run kubectl in the release's namespace."""
        return run("kubectl", "-n", self.namespace, *arguments, timeout_s=timeout_s, given=given)

    def helm(self, verb: str, *arguments: str, timeout_s: float = 900) -> str:
        """Run one of helm's verbs on the release."""
        where = ["-n", self.namespace, *arguments]
        return run("helm", verb, self.name, *where, timeout_s=timeout_s)

    def objects(self, kinds: str) -> list[dict[str, Any]]:
        """Return the release's objects of these kinds."""
        label = f"app.kubernetes.io/instance={self.name}"
        printed = self.kubectl("get", kinds, "-l", label, "-o", "json")
        found: list[dict[str, Any]] = json.loads(printed)["items"]
        return found

    def pod(self, component: str) -> dict[str, Any]:
        """Return the one pod of a component that is not going away, once it is one."""

        def only() -> dict[str, Any] | None:
            living = [
                pod
                for pod in self.objects("pods")
                if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component
                and "deletionTimestamp" not in pod["metadata"]
            ]
            return living[0] if len(living) == 1 else None

        return until(only, f"one pod of {component}", limit_s=60)

    def revision(self) -> int:
        """Return the number of the installed revision."""
        return int(json.loads(self.helm("status", "-o", "json"))["version"])

    def mission(self, name: str) -> dict[str, Any]:
        """Return a Mission; its status is empty before it has one."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "mission", name, "-o", "json"))
        return {"status": {}, **found}

    def condition(self, name: str, kind: str, status: str) -> dict[str, Any] | None:
        """Return a Mission's condition if it has that status."""
        found: list[dict[str, Any]] = self.mission(name)["status"].get("conditions", [])
        return next((c for c in found if (c["type"], c["status"]) == (kind, status)), None)

    def patch_mission(self, name: str, patch: dict[str, Any]) -> None:
        """Change a Mission as a person does."""
        self.kubectl("patch", "mission", name, "--type=merge", "-p", json.dumps(patch))

    def rolled_out(self) -> None:
        """Return when every pod is as wanted and ready."""
        for each in self.objects("deployments,statefulsets"):
            name = f"{each['kind'].lower()}/{each['metadata']['name']}"
            self.kubectl("rollout", "status", name, "--timeout=300s", timeout_s=330)

    def redis(self, *command: str) -> str:
        """Run redis-cli in the release's Redis."""
        return self.kubectl("exec", f"{self.name}-redis-0", "--", "redis-cli", *command)

    @contextmanager
    def forwarded(self, component: str, port: int) -> Iterator[int]:
        """Yield a port of this machine that leads to a component's Service."""
        local = free_port()
        target = [f"svc/{self.name}-{component}", f"{local}:{port}"]
        process = subprocess.Popen(
            ["kubectl", "-n", self.namespace, "port-forward", *target],
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        try:
            _listening(local)
            yield local
        finally:
            process.terminate()
            process.wait()


def until(look: Callable[[], T | None], what: str, limit_s: float = 120) -> T:
    """Return what ``look`` finds as soon as it finds something true.

    Raises:
        CommandError: It found nothing within ``limit_s`` seconds.
    """
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        if found := look():
            return found
        time.sleep(0.5)  # another program: there is no event to wait for
    raise CommandError(f"{what}: not within {limit_s:g} s")


def _listening(port: int) -> None:
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)  # another program's port: there is no event to wait for
        else:
            return
    raise CommandError(f"port-forward does not listen on {port} after 30 s")

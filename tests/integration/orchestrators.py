"""The orchestrator as a process of its own, against a real API server or with files alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fleet.testing import free_port

from tests.integration.clusters import ROOT, ControlPlane
from tests.support.access_keys import write_access_keys

MISSIONS = "/apis/fleet.bem.dev/v1alpha1/namespaces/default/missions"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
WAIT_S = 60.0
T = TypeVar("T")


class Orchestrator:
    """A process that can be killed and started again.

    Attributes:
        keys: Keys that it accepts.

    Args:
        folder: For its log; the cluster's kubeconfig is there, if it has a cluster.
        settings: ``BEM_ORCHESTRATOR_*``.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.keys = write_access_keys(folder / "keys", {"name": "fleet", "role": "operator"})
        self._log = folder / "orchestrator.log"
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(folder / "kubeconfig"),
            "BEM_ORCHESTRATOR_ADDRESS": self.address,
            "BEM_ORCHESTRATOR_KEYS_FILE": str(self.keys.file),
            "BEM_ORCHESTRATOR_SERVICE_KEY_FILE": str(self.keys.path("fleet")),
            "BEM_ORCHESTRATOR_LEASE_DURATION_S": "4",
            "BEM_ORCHESTRATOR_PRIORITY_CLASS_PREFIX": "bem-",
            "BEM_ORCHESTRATOR_ANALYSIS_INTERVAL_S": "0.3",
            "BEM_ORCHESTRATOR_CANARY_RESYNC_S": "0.2",
            "BEM_ORCHESTRATOR_CANARY_DRAIN_S": "0.5",
            "BEM_ORCHESTRATOR_DRAIN_S": "1",
            **{f"BEM_ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "bem_fleet.services.orchestrator"]
        with self._log.open("ab") as log:  # the child keeps its own copy
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stderr=log)

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, by default as a crash would."""
        if self._process:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None


@contextmanager
def orchestrator(folder: Path, **settings: str) -> Iterator[Orchestrator]:
    """Run the orchestrator; killed at the end."""
    made = Orchestrator(folder, **settings)
    made.start()
    try:
        yield made
    finally:
        made.end()


def until(look: Callable[[], T | None], what: str, limit_s: float = WAIT_S) -> T:
    """Return what ``look`` finds as soon as it finds something true."""
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        if found := look():
            return found
        time.sleep(0.05)  # another program, without an event to wait for
    raise TimeoutError(f"{what}: not within {limit_s:g} s")


def status(plane: ControlPlane, name: str) -> dict[str, Any]:
    """Return a Mission's status, empty before there is one."""
    found: dict[str, Any] = plane.call("GET", f"{MISSIONS}/{name}").get("status") or {}
    return found


def condition(plane: ControlPlane, name: str, kind: str) -> dict[str, Any]:
    """Return a condition of a Mission, empty before there is one."""
    conditions = status(plane, name).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def selector(plane: ControlPlane, name: str) -> dict[str, str]:
    """Return the node selector of a Deployment's pods."""
    spec = plane.call("GET", f"{DEPLOYMENTS}/{name}")["spec"]["template"]["spec"]
    found: dict[str, str] = spec.get("nodeSelector") or {}
    return found


def make_ready(plane: ControlPlane, name: str) -> None:
    """Play the Deployment controller and the kubelet: all pods are new and ready."""
    path = f"{DEPLOYMENTS}/{name}"
    found = plane.call("GET", path)
    pods = found["spec"].get("replicas", 1)
    counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas"), pods)
    ready = {"observedGeneration": found["metadata"]["generation"], **counts}
    plane.merge(f"{path}/status", {"status": ready})

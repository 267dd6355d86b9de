"""Access to a fleet in a cluster through kubectl: forwarded ports, API keys and certificates.

Everything is found by the chart's labels, so that neither ports nor names need to be known. What a
person may do is decided by the cluster: forwarding ports, and reading the Secrets of the release.
"""

import base64
import json
import queue
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fleet.certificates import AUTHORITY, CERTIFICATE, KEY, Certificate
from fleet.errors import InvalidArgumentError, UnavailableError

_PART_OF, _INSTANCE, _COMPONENT = (
    f"app.kubernetes.io/{name}" for name in ("part-of", "instance", "component")
)
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ")
_FORWARD_TIMEOUT_S, _STOP_TIMEOUT_S = 30.0, 5.0


@dataclass(frozen=True)
class ClusterService:
    """Service of a release.

    Attributes:
        name: Name of the Service object.
        full: Full name of the release, with which its objects' names begin.
        port: Port of the service's own protocol.
        tls: Whether it speaks TLS.
    """

    name: str
    full: str
    port: int
    tls: bool


@dataclass(frozen=True)
class Cluster:
    """A release of the chart.

    Attributes:
        context: Context of kubectl's configuration; empty for the current one.
        namespace: Namespace of the release; empty for the context's.
        release: Name of the release; empty where the namespace has one.
    """

    context: str = ""
    namespace: str = ""
    release: str = ""

    def command(self, *words: str) -> list[str]:
        """Return a command line of kubectl."""
        where = [("--context", self.context), ("--namespace", self.namespace)]
        return ["kubectl", *(word for pair in where if pair[1] for word in pair), *words]

    def service(self, component: str) -> ClusterService:
        """Return the Service of a component, such as ``orchestrator``.

        Raises:
            InvalidArgumentError: None or several match.
            UnavailableError: kubectl fails.
        """
        labels = {_PART_OF: "bem-fleet", _COMPONENT: component}
        if self.release:
            labels[_INSTANCE] = self.release
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self._read("get", "service", "--selector", selector, "-o", "json")["items"]
        # The orchestrator makes one more for the pods of a canary.
        own = [one for one in found if one["metadata"]["name"].endswith(f"-{component}")]
        if len(own) != 1:
            names = ", ".join(sorted(one["metadata"]["name"] for one in own)) or "none"
            raise InvalidArgumentError(
                "release",
                f"services {selector}: {names}; exactly one must match; give --namespace, and "
                "--release where there are several",
            )
        name, ports = own[0]["metadata"]["name"], own[0]["spec"]["ports"]
        main = next((one for one in ports if one.get("name") != "metrics"), ports[0])
        tls = main.get("appProtocol") == "https"
        return ClusterService(name, name.removesuffix(f"-{component}"), int(main["port"]), tls)

    def key(self, service: ClusterService, name: str) -> str:
        """Return an API key of the release, such as that of ``operator``.

        Raises:
            UnavailableError: The Secret cannot be read, or has no such key.
        """
        secret = f"{service.full}-access"
        return self._secret(secret, f"{name}.key")[f"{name}.key"].decode().strip()

    def certificate(self, service: ClusterService) -> Certificate:
        """Return the certificate of the release's clients.

        Raises:
            UnavailableError: The Secret cannot be read.
        """
        found = self._secret(f"{service.full}-client-tls", CERTIFICATE, KEY, AUTHORITY)
        return Certificate(found[CERTIFICATE], found[KEY], found[AUTHORITY])

    def execute(self, workload: str, *words: str, container: str = "") -> tuple[int, str]:
        """Run a command in a pod; returns its exit code and what it printed.

        Args:
            workload: Kind and name, such as ``statefulset/fleet-witness``.
            words: Command line in the pod.
            container: Container of the pod; empty for its first one.

        Raises:
            UnavailableError: kubectl cannot run it, which is neither exit code 0 nor 1 of it.
        """
        where = ("-c", container) if container else ()
        done = self._run("exec", workload, *where, "--", *words)
        if done.returncode not in (0, 1) or not done.stdout:
            raise UnavailableError(f"kubectl: {done.stderr.decode(errors='replace').strip()}")
        return done.returncode, done.stdout.decode(errors="replace")

    @contextmanager
    def forwarded(self, service: ClusterService) -> Iterator[str]:
        """Forward a port of this machine to a service while the body runs; yields its address.

        The address is ``localhost:port``: certificates between pods name it for this purpose.

        Raises:
            UnavailableError: kubectl does not forward.
        """
        words = ("port-forward", "--address", "127.0.0.1", f"service/{service.name}")
        command = self.command(*words, f":{service.port}")
        with _process(command) as process:
            yield f"localhost:{_forwarded_port(process)}"

    def _secret(self, name: str, *keys: str) -> dict[str, bytes]:
        data = self._read("get", "secret", name, "-o", "json").get("data") or {}
        if missing := [key for key in keys if key not in data]:
            raise UnavailableError(f"secret {name}: has no {', '.join(missing)}")
        return {key: base64.b64decode(data[key]) for key in keys}

    def _read(self, *words: str) -> Any:
        done = self._run(*words)
        if done.returncode:
            raise UnavailableError(f"kubectl: {done.stderr.decode(errors='replace').strip()}")
        return json.loads(done.stdout)

    def _run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(self.command(*words), capture_output=True, check=False)
        except FileNotFoundError as err:
            raise UnavailableError("kubectl: is not installed; `make clients` fetches it") from err


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def _forwarded_port(process: subprocess.Popen[str]) -> int:
    """Return the local port that kubectl names once it listens."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        if process.stdout:
            lines.put(process.stdout.readline())

    threading.Thread(target=read, daemon=True).start()
    try:
        line = lines.get(timeout=_FORWARD_TIMEOUT_S)
    except queue.Empty:
        raise UnavailableError(
            f"kubectl: did not forward the port within {_FORWARD_TIMEOUT_S:g} s"
        ) from None
    found = _FORWARDING.match(line)
    if found is None:
        process.terminate()
        said = process.stderr.read().strip() if process.stderr else ""
        raise UnavailableError(f"kubectl: {said or line.strip() or 'did not forward the port'}")
    return int(found[1])

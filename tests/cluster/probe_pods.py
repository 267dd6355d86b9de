"""Probes in pods: which connections each pod can open."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.cluster.client import python_spec
from tests.cluster.kubernetes_cli import CommandError, environment, run

UNDECLARED = 7777
"""Port at which every probing pod listens and which no container declares."""

# Listens at a port, and answers each line of addresses by which of them it can connect to. A name
# without a port is resolved only. A refusal is mostly silent: the kernel limits how many it sends.
_PROBE = """
import concurrent.futures, json, socket, sys, threading
server = socket.create_server(("", int(sys.argv[1])))
def accept():
    while True:
        server.accept()[0].close()
threading.Thread(target=accept, daemon=True).start()
def reaches(address):
    try:
        if address[1] is None:
            socket.getaddrinfo(*address)
        else:
            socket.create_connection(address, timeout=2).close()
    except OSError:
        return False
    return True
print("listening", flush=True)
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    for line in sys.stdin:
        print(json.dumps(list(pool.map(reaches, json.loads(line)))), flush=True)
"""
Address = tuple[str, int | None]


@dataclass(frozen=True)
class Pod:
    """Running pod that can probe.

    Attributes:
        namespace: Namespace of the pod.
        name: Name of the pod.
        container: Container with Python.
        ip: Address of the pod.
    """

    namespace: str
    name: str
    container: str
    ip: str


@contextmanager
def python_pods(
    image: str, labels: Mapping[tuple[str, str], dict[str, str]]
) -> Iterator[list[Pod]]:
    """Run pods until the block ends.

    Args:
        image: Image with Python.
        labels: The labels of each pod, by its namespace and name.
    """
    manifest = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": namespace, "name": name, "labels": given},
                "spec": python_spec(image),
            }
            for (namespace, name), given in labels.items()
        ],
    }
    try:
        run("kubectl", "apply", "-f", "-", stdin=json.dumps(manifest))
        for namespace, name in labels:
            run("kubectl", "-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}")
        yield [_running(namespace, name) for namespace, name in labels]
    finally:
        run("kubectl", "delete", "--wait=true", "-f", "-", stdin=json.dumps(manifest))


def _running(namespace: str, name: str) -> Pod:
    shown = run("kubectl", "-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.podIP}")
    return Pod(namespace, name, "python", shown)


class Probe:
    """Process in a pod that listens at `UNDECLARED` and tells which addresses it reaches."""

    def __init__(self, pod: Pod) -> None:
        where = ["-n", pod.namespace, pod.name, "-c", pod.container]
        self._pod = pod
        self._process = subprocess.Popen(
            ["kubectl", "exec", "-i", *where, "--", "python", "-c", _PROBE, str(UNDECLARED)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Wait until the process listens.

        Raises:
            CommandError: It does not start.
        """
        self._answer()

    def reaches(self, addresses: Iterable[Address]) -> list[bool]:
        """Return for each address whether a connection opens, or whether a name resolves.

        Raises:
            CommandError: The process has ended.
        """
        assert self._process.stdin
        self._process.stdin.write(json.dumps(list(addresses)) + "\n")
        self._process.stdin.flush()
        answer: list[bool] = json.loads(self._answer())
        return answer

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise CommandError(f"probe in {self._pod}: exit status {self._process.wait()}")
        return line

    def close(self) -> None:
        """End the process: it reads to the end of its input."""
        self._process.communicate()


@contextmanager
def probes(pods: Mapping[str, Pod]) -> Iterator[dict[str, Probe]]:
    """Run a probe in each pod until the block ends; all start at once."""
    with ExitStack() as stack:
        started = {}
        for name, pod in pods.items():
            started[name] = Probe(pod)
            stack.callback(started[name].close)
        for probe in started.values():
            probe.wait()
        yield started


def reached(running: Mapping[str, Probe], addresses: Iterable[Address]) -> dict[str, list[bool]]:
    """Return for each probe which of the addresses it reaches; all ask at once."""
    asked = list(addresses)
    with ThreadPoolExecutor(len(running)) as pool:
        answers = pool.map(lambda probe: probe.reaches(asked), running.values())
        return dict(zip(running, answers, strict=True))

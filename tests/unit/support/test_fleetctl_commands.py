"""The commands for clusters are all that there are, and each finds its service through kubectl."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from bem_fleet.cli import main
from bem_fleet.cli.operator_channel import VARIABLE
from bem_fleet.operator_key import VARIABLE as KEY_VARIABLE

from tests.support.canned_fleet import canned_fleet
from tests.support.fake_kubectl import FakeKubectl
from tests.support.fleetctl_commands import (
    COMMANDS,
    ClusterCommand,
    commands_of_clusters,
    groups,
)

WHERE = ("--context", "kind-a", "--namespace", "bem", "--release", "fleet", "--json")
# Answers of programs in pods, by what they are asked.
_IN_PODS = {
    "list 100": json.dumps({"letters": []}),
    "requeue": json.dumps({"error": "does not exist"}),
    "discard": json.dumps({"error": "does not exist"}),
    "audit_witness list": json.dumps([]),
    "audit_witness verify": "bem:audit: 9 records, 0 not anchored yet: valid",
}


def test_every_command_with_a_context_is_tried_on_a_cluster() -> None:
    """A new command for clusters needs a line in the table, which the cluster's tests run."""
    assert {one.path for one in COMMANDS} == set(commands_of_clusters())
    assert set(groups()) >= {"missions", "canary", "adapters", "versions", "feedback", "audit"}


class _Gateway(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Take feedback from whoever shows the user's key."""
        self.rfile.read(int(self.headers["content-length"]))
        right = self.headers["authorization"] == "Bearer bem_u"
        self.send_response(201 if right else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"id": "1-0", "kept": ["rating"]}).encode())

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def gateway() -> Iterator[int]:
    """Serve a gateway on a free port; yields it."""
    server = HTTPServer(("127.0.0.1", 0), _Gateway)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.line)
def test_command_finds_its_service_through_kubectl(
    command: ClusterCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An answer or a refusal of the service, never "cannot tell"; kubectl gets the cluster."""
    for name in (VARIABLE, KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "text").write_text("The harbour opens at dawn.")
    kubectl = FakeKubectl(tmp_path / "bin", monkeypatch)
    kubectl.add_secret("fleet-access", {"operator.key": b"bem_o\n", "user.key": b"bem_u\n"})
    for asked, answer in _IN_PODS.items():
        kubectl.answer(asked, f"{answer}\n", code=int("error" in answer))
    with canned_fleet() as (_, port), gateway() as http:
        kubectl.add_service(command.component, http if command.component == "gateway" else port)
        code = main([*command.words(str(tmp_path / "text")), *WHERE])
    shown = capsys.readouterr()

    assert code in (0, 1), shown.err
    assert json.loads(shown.out) is not None
    assert all(line.startswith("--context kind-a --namespace bem ") for line in kubectl.lines)
    selector = f"component={command.component},app.kubernetes.io/instance=fleet"
    assert selector in kubectl.lines[0]
    assert ("exec" in kubectl.calls[-1]) == command.in_pod
    if command.component == "gateway":
        assert code == 0

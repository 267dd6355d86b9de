"""Channel of a command, to a real server with TLS."""

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.cli import main
from bem_fleet.cli.operator_channel import VARIABLE, open_operator_channel
from bem_fleet.operator_key import VARIABLE as KEY_VARIABLE
from fleet.certificates import CertificateFolder, server_credentials
from fleet.errors import InvalidArgumentError

from tests.support.canned_fleet import canned_fleet
from tests.support.certificates import TestAuthority
from tests.support.fake_kubectl import FakeKubectl


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    """The fleet's authority."""
    return TestAuthority(tmp_path / "authority")


@pytest.fixture
def port(authority: TestAuthority, tmp_path: Path) -> Iterator[int]:
    """A server that asks for certificates, behind a forwarded port."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    own = CertificateFolder(authority.issue(tmp_path / "server"))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(own, mutual=True))
    server.start()
    yield port
    server.stop(None).wait()


def code_at(port: int) -> grpc.StatusCode:
    """Return the status of a call of an unknown method."""
    with open_operator_channel(f"127.0.0.1:{port}") as channel:
        try:
            method: Any = channel.unary_unary("/sample.v1.S/Ask")
            method(b"", timeout=10)
        except grpc.RpcError as err:
            code: grpc.StatusCode = err.code()
            return code
    return grpc.StatusCode.OK


def test_certificate_of_the_variable_is_shown(
    authority: TestAuthority, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it the server answers (that it knows no such method), without it nothing does."""
    plain = code_at(port)
    monkeypatch.setenv(VARIABLE, str(authority.issue(tmp_path / "client")))

    assert plain is grpc.StatusCode.UNAVAILABLE
    assert code_at(port) is grpc.StatusCode.UNIMPLEMENTED


def test_folder_without_a_certificate_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing error is no plain connection."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))

    with pytest.raises(InvalidArgumentError, match=VARIABLE):
        open_operator_channel("127.0.0.1:1")


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    """A kubectl of a release with keys."""
    for name in (VARIABLE, KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    made = FakeKubectl(tmp_path / "bin", monkeypatch)
    made.add_secret("fleet-access", {"operator.key": b"bem_o\n", "user.key": b"bem_u\n"})
    return made


@pytest.mark.slow
def test_cluster_is_reached_with_the_releases_key_and_certificate(
    authority: TestAuthority,
    kubectl: FakeKubectl,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The server asks for a certificate; only kubectl's answers are canned."""
    folder = authority.issue(tmp_path / "client", names="DNS:fleet-client")
    files = {one.name: one.read_bytes() for one in folder.iterdir()}
    kubectl.add_secret("fleet-client-tls", files)
    own = CertificateFolder(authority.issue(tmp_path / "server", names="DNS:localhost"))
    with canned_fleet(credentials=server_credentials(own, mutual=True)) as (served, port):
        kubectl.add_service("orchestrator", port, tls=True)
        code = main(["missions", "list", "--context", "kind-a", "-n", "bem"])
    shown = capsys.readouterr()

    assert (code, shown.err) == (0, "")
    assert "tickets Canary" in shown.out
    assert served.keys == ["Bearer bem_o"]
    assert all(line.startswith("--context kind-a --namespace bem ") for line in kubectl.lines)


@pytest.mark.slow
def test_status_of_a_cluster_is_its_missions(
    kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 if one does not run; the context may be a variable."""
    monkeypatch.setenv("FLEETCTL_CONTEXT", "kind-a")
    with canned_fleet("Degraded") as (_, port):
        kubectl.add_service("orchestrator", port)
        code = main(["status", "--json"])
    found = json.loads(capsys.readouterr().out)

    assert code == 1
    assert found["healthy"] is False
    assert found["missions"][0]["phase"] == "Degraded"
    assert found["totals"]["gpus"] == 4


@pytest.mark.slow
def test_audit_log_of_a_cluster_is_checked_by_its_witness(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is the command's."""
    kubectl.add_service("witness", 1)
    kubectl.answer("exec statefulset/fleet-witness", "bem:audit: 2 faults in 9 records\n", code=1)
    code = main(["audit", "verify", "--context", "kind-a"])

    assert code == 1
    assert "2 faults in 9 records" in capsys.readouterr().out
    assert kubectl.calls[-1][-3:] == ["-m", "bem_fleet.services.safety.audit_witness", "verify"]


@pytest.mark.slow
def test_audit_records_of_a_cluster_come_from_its_witness(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    """Filters go to the pod; people see a time in place of the stream's id."""
    record = {"id": "1764500000000-0", "action": "block", "category": "toxicity"}
    kubectl.add_service("witness", 1)
    kubectl.answer("exec statefulset/fleet-witness", json.dumps([record]) + "\n")
    code = main(["audit", "list", "--context", "kind-a", "--last", "3", "--action", "block"])
    printed = capsys.readouterr().out

    assert code == 0
    assert "2025-11-30T10:53:20.000+00:00  block   toxicity" in printed
    assert kubectl.calls[-1][-3:] == ["list", "3", "action=block"]


@pytest.mark.slow
def test_dead_letters_of_a_cluster_come_from_its_learner(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mission online's container decides; what it refuses is exit code 1."""
    names = ("identifier", "entry", "reason", "deliveries", "size", "kept")
    letter = dict(zip(names, ("1-0", "0-9", "no user", 3, 2, False), strict=True))
    kubectl.add_service("online", 1)
    kubectl.answer("list 100", json.dumps({"letters": [letter]}) + "\n")
    kubectl.answer("requeue 1-0", json.dumps({"error": "its body was not kept"}) + "\n", code=1)
    listed = main(["feedback", "dead", "--context", "kind-a"])
    shown = capsys.readouterr().out
    refused = main(["feedback", "requeue", "1-0", "--context", "kind-a"])

    assert (listed, refused) == (0, 1)
    assert "no user  3" in shown
    assert "its body was not kept" in capsys.readouterr().err
    assert kubectl.lines[-1] == (
        "--context kind-a exec deployment/fleet-online -c online -- python -m "
        "bem_fleet.feedback.dead_letter_command requeue 1-0"
    )


@pytest.mark.slow
def test_cluster_that_cannot_be_reached_is_exit_code_2(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kubectl's reason is told."""
    kubectl.answer("component=router", "", err='error: context "x" does not exist', code=1)

    assert main(["adapters", "list", "--context", "x"]) == 2
    assert 'context "x" does not exist' in capsys.readouterr().err

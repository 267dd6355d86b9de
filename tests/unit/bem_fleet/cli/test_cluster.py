"""Access to a cluster: command lines of kubectl, and what is made of its answers."""

import subprocess
from pathlib import Path

import pytest
from bem_fleet.cli.cluster import Cluster
from fleet.errors import InvalidArgumentError, UnavailableError

from tests.support.fake_kubectl import FakeKubectl

pytestmark = pytest.mark.slow  # each call starts an interpreter
FLEET = Cluster("kind-a", "bem", "fleet")


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    """A kubectl of a release with an orchestrator."""
    made = FakeKubectl(tmp_path / "bin", monkeypatch)
    made.add_service("orchestrator", 4711, tls=True)
    return made


def test_service_is_found_by_the_charts_labels(kubectl: FakeKubectl) -> None:
    """Context, namespace and release select it; the Service of a canary is another one."""
    found = FLEET.service("orchestrator")

    assert (found.name, found.full, found.port, found.tls) == (
        *("fleet-orchestrator", "fleet"),
        *(50051, True),
    )
    labels = ["part-of=bem-fleet", "component=orchestrator", "instance=fleet"]
    selector = ",".join(f"app.kubernetes.io/{label}" for label in labels)
    assert kubectl.lines == [
        f"--context kind-a --namespace bem get service --selector {selector} -o json"
    ]


def test_port_is_forwarded_while_it_is_used(kubectl: FakeKubectl) -> None:
    """The address is kubectl's free port; afterwards nothing runs any more."""
    with FLEET.forwarded(FLEET.service("orchestrator")) as address:
        assert address == "localhost:4711"
        running = subprocess.run(["pgrep", "-f", str(kubectl.executable)], check=False)
        assert running.returncode == 0
    ended = subprocess.run(["pgrep", "-f", str(kubectl.executable)], check=False)

    assert ended.returncode == 1
    assert kubectl.lines[-1] == (
        "--context kind-a --namespace bem port-forward --address 127.0.0.1 "
        "service/fleet-orchestrator :50051"
    )


def test_keys_and_certificates_are_the_releases(kubectl: FakeKubectl) -> None:
    """A key that the Secret lacks is named."""
    kubectl.add_secret("fleet-access", {"operator.key": b"bem_o\n"})
    files = {"tls.crt": b"c", "tls.key": b"k", "ca.crt": b"a"}
    kubectl.add_secret("fleet-client-tls", files)
    service = FLEET.service("orchestrator")
    certificate = FLEET.certificate(service)

    assert FLEET.key(service, "operator") == "bem_o"
    assert (certificate.chain, certificate.key, certificate.authorities) == (b"c", b"k", b"a")
    with pytest.raises(UnavailableError, match=r"fleet-access: has no user\.key"):
        FLEET.key(service, "user")


def test_missing_and_ambiguous_releases_are_told(kubectl: FakeKubectl) -> None:
    """The error says what was looked for, and what to give."""
    kubectl.answer("component=router", '{"items": []}')
    port = {"spec": {"ports": [{"port": 1}]}}
    two = [{"metadata": {"name": f"{name}-sep"}, **port} for name in ("a", "b")]
    kubectl.answer("component=sep", f'{{"items": {two}}}'.replace("'", '"'))

    with pytest.raises(InvalidArgumentError, match=r"component=router.*: none; .*--namespace"):
        FLEET.service("router")
    with pytest.raises(InvalidArgumentError, match=r"a-sep, b-sep; .*--release"):
        Cluster().service("sep")


def test_errors_of_kubectl_are_passed_on(
    kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context that does not exist, a port that cannot be forwarded, and no kubectl at all."""
    service = FLEET.service("orchestrator")
    kubectl.answer("service/fleet-orchestrator", "", err="error: no pod runs", code=1)
    with pytest.raises(UnavailableError, match="no pod runs"), FLEET.forwarded(service):
        pass
    with pytest.raises(UnavailableError, match="no answer to --context other"):
        Cluster("other").service("memory")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnavailableError, match="not installed"):
        FLEET.service("orchestrator")


def test_command_in_a_pod_has_its_own_exit_code(kubectl: FakeKubectl) -> None:
    """1 is an answer; any other code, and silence, are kubectl's failure."""
    kubectl.answer("exec statefulset/w -- verify", "2 faults\n", code=1)
    kubectl.answer("exec statefulset/x -- verify", "", err="error: not found", code=1)

    assert FLEET.execute("statefulset/w", "verify") == (1, "2 faults\n")
    with pytest.raises(UnavailableError, match="not found"):
        FLEET.execute("statefulset/x", "verify")

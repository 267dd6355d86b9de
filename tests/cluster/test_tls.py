"""TLS between the pods of an installed fleet: who is refused, renewal, operators' commands."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from bem_fleet.cli.operator_channel import VARIABLE
from fleet.certificates import Certificate, CertificateFolder, channel_credentials
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cluster.client import complete
from tests.cluster.kubernetes_cli import ROOT, Release, wait_for
from tests.support.certificates import TestAuthority

pytestmark = [pytest.mark.stage("tls"), pytest.mark.e2e, pytest.mark.timeout(900)]

# Calls a mission's health in each way that a pod could, at its port or its health port, and prints
# the codes.
_INTRUDER = """
import grpc, json, sys
from grpc_health.v1 import health_pb2 as pb, health_pb2_grpc as rpc
address, health, authority = sys.argv[1], sys.argv[2], sys.argv[3].encode()
def code(channel, stub=rpc.HealthStub, ask=lambda s: s.Check(pb.HealthCheckRequest(), timeout=10)):
    try:
        ask(stub(channel))
    except grpc.RpcError as err:
        return err.code().name
    return "OK"
trusted = grpc.ssl_channel_credentials(authority)
def scrape(channel):
    return channel.unary_unary("/bemfleet.common.v1.MetricsService/Scrape")
codes = {
    "plain": code(grpc.insecure_channel(address)),
    "no certificate": code(grpc.secure_channel(address, trusted)),
} if address else {
    "health port": code(grpc.insecure_channel(health)),
    "health port, another method": code(
        grpc.insecure_channel(health), scrape, lambda method: method(b"", timeout=10)
    ),
}
print(json.dumps(codes))
"""


def files_of(release: Release, name: str) -> Certificate:
    """Return the certificate in a Secret of the release."""
    printed = release.kubectl("get", "secret", f"{release.name}-{name}-tls", "-o", "json")
    data = json.loads(printed)["data"]
    return Certificate(*(base64.b64decode(data[key]) for key in ("tls.crt", "tls.key", "ca.crt")))


def renew(release: Release, value: str) -> Certificate:
    """Set `tls.renewal`, and return the router's certificate once a Job has renewed all."""
    names = [
        one["metadata"]["name"].removeprefix(f"{release.name}-").removesuffix("-tls")
        for one in release.objects("secrets")
        if one["metadata"]["name"].endswith("-tls") and "ca.crt" in one["data"]
    ]
    before = {name: files_of(release, name).chain for name in names}
    release.helm("upgrade", "charts", "--reuse-values", "--set", f"tls.renewal={value}", "--wait")

    def renewed() -> bool:
        return all(files_of(release, name).chain != before[name] for name in names)

    assert "router" in names
    wait_for(renewed, "renewed certificates", 120)
    return files_of(release, "router")


def code_at(port: int, shown: Certificate) -> grpc.StatusCode:
    """Return the status of a health check through a forwarded port."""
    with grpc.secure_channel(f"localhost:{port}", channel_credentials(shown)) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as err:
            code: grpc.StatusCode = err.code()
            return code
    return grpc.StatusCode.OK


def test_pods_without_a_certificate_are_refused(release: Release) -> None:
    """A pod gets to a mission neither in plain nor without a certificate; health alone answers.

    The intruder runs in validation's pod, which policies admit, and uses none of its files. The
    health port, which they admit nobody to, is asked from the mission's pod.
    """
    authority = files_of(release, "client").authorities.decode()
    target = f"{release.name}-router.{release.namespace}.svc:50051"
    pod = release.pod("router")
    health = f"{pod['status']['podIP']}:9465"
    asked = (
        (f"deploy/{release.name}-validation", "validation", target, ""),
        (f"pod/{pod['metadata']['name']}", "safety", "", health),
    )
    codes = {}
    for where, container, address, port in asked:
        command = ("exec", where, "-c", container, "--", "python", "-c", _INTRUDER)
        codes.update(json.loads(release.kubectl(*command, address, port, authority)))

    assert codes == {
        "plain": "UNAVAILABLE",
        "no certificate": "UNAVAILABLE",
        "health port": "OK",
        "health port, another method": "UNIMPLEMENTED",
    }


def test_certificates_of_another_authority_are_refused(release: Release, tmp_path: Path) -> None:
    """Through a forwarded port the clients' certificate is admitted, a stranger's is not."""
    own = files_of(release, "client")
    folder = TestAuthority(tmp_path / "strangers").issue(tmp_path / "stranger")
    stranger = CertificateFolder(folder).current
    forged = Certificate(stranger.chain, stranger.key, own.authorities)
    with release.port_forward("router", 50051) as port:
        codes = code_at(port, own), code_at(port, forged)

    assert codes == (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)


def test_operators_commands_work_through_a_forwarded_port(release: Release, tmp_path: Path) -> None:
    """`kubectl bem certificate` and `key` give what fleetctl needs."""
    variables = {**os.environ, "FLEETCTL_KEY_FILE": str(tmp_path / "key")}
    (tmp_path / "key").write_text(release.api_key("operator"))
    folder, own = tmp_path / "tls", files_of(release, "client")
    folder.mkdir()
    for name, content in zip(
        ("tls.crt", "tls.key", "ca.crt"), (own.chain, own.key, own.authorities), strict=True
    ):
        (folder / name).write_bytes(content)
    fleetctl = str(Path(sys.executable).with_name("fleetctl"))
    with release.port_forward("orchestrator", 50101) as port:
        command = [fleetctl, "canary", "--address", f"127.0.0.1:{port}", "status", "router"]
        plain, secured = (
            subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
            for env in (variables, {**variables, VARIABLE: str(folder)})
        )

    assert plain.returncode == 2, plain.stdout + plain.stderr
    assert secured.returncode == 0, secured.stdout + secured.stderr


def test_renewed_certificates_are_taken_by_running_pods(release: Release) -> None:
    """`tls.renewal` changes all certificates and no pod; the kubelet mounts them, calls go on.

    At the end the value is what it was, so that the next upgrade of the scenario keeps them.
    """
    before, pod = files_of(release, "router"), release.pod("router")["metadata"]["name"]
    after = renew(release, "once")
    shown = ("exec", f"pod/{pod}", "-c", "safety", "--", "cat", "/run/pod-tls/tls.crt")
    wait_for(lambda: release.kubectl(*shown).encode() == after.chain, "new certificate", 180)

    assert after.chain != before.chain
    assert after.authorities == before.authorities
    assert "Paris" in complete(release)
    assert release.pod("router")["metadata"]["name"] == pod
    with release.port_forward("router", 50051) as port:
        assert code_at(port, files_of(release, "client")) is grpc.StatusCode.OK
    renew(release, "")

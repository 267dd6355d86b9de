"""Channel of a command, to a real server with TLS."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.cli.operator_channel import VARIABLE, open_operator_channel
from fleet.certificates import CertificateFolder, server_credentials
from fleet.errors import InvalidArgumentError

from tests.support.certificates import TestAuthority


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

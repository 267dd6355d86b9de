"""The edge's certificate, over real connections."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bem_fleet.services.gateway.certificate import CERTIFICATE, KEY, CertificateReloader


def issue(folder: Path) -> None:
    """Write a new self-signed certificate for localhost."""
    pair = ["-keyout", str(folder / KEY), "-out", str(folder / CERTIFICATE)]
    what = ["-subj", "/CN=localhost", "-days", "1", "-newkey", "ec"]
    curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", "-x509", "-nodes", *what, *curve, *pair]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def listening(context: ssl.SSLContext) -> Iterator[int]:
    """Accept connections with ``context`` until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    raw, _ = server.accept()
                except OSError:
                    return
                context.wrap_socket(raw, server_side=True).close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def shown(port: int) -> str:
    """Return the certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a certificate."""
    issue(tmp_path)
    return tmp_path


def test_renewed_certificate_is_shown_without_a_restart(folder: Path) -> None:
    """New connections get the newest certificate; a broken one leaves the last in place."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    renewal = CertificateReloader(context, folder, interval_s=0.01)
    with listening(context) as port:
        first = shown(port)
        (folder / CERTIFICATE).write_text("broken")
        time.sleep(0.1)
        meanwhile = shown(port)
        issue(folder)
        limit = time.monotonic() + 10
        while shown(port) == first and time.monotonic() < limit:
            time.sleep(0.01)
        second = shown(port)
    renewal.close()

    assert meanwhile == first
    assert second != first
    assert second.split() == (folder / CERTIFICATE).read_text().split()


def test_no_connection_fails_while_certificates_are_renewed(folder: Path, tmp_path: Path) -> None:
    """Every handshake takes a certificate and the key of the same pair."""
    other = tmp_path / "other"
    other.mkdir()
    issue(other)
    pairs = [((one / CERTIFICATE).read_text(), (one / KEY).read_text()) for one in (folder, other)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    renewal = CertificateReloader(context, folder, interval_s=0.0001)
    seen = set()
    with listening(context) as port:
        for number in range(400):
            certificate, key = pairs[number % 2]
            (folder / KEY).write_text(key)
            (folder / CERTIFICATE).write_text(certificate)
            seen.add(shown(port).strip())
    renewal.close()

    assert seen == {certificate.strip() for certificate, _ in pairs}

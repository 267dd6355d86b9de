"""The gateway as a process."""

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from bem_fleet.services.gateway.http_server import serve
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.testing import free_port

from tests.unit.services.gateway.test_certificate import issue


def test_process_serves_https_and_ends_on_sigterm(tmp_path: Path) -> None:
    """With a certificate folder the gateway speaks HTTPS, and SIGTERM ends it cleanly."""
    issue(tmp_path)
    port = free_port()
    settings = {"BEM_GATEWAY_ADDRESS": f"127.0.0.1:{port}", "BEM_GATEWAY_TLS": str(tmp_path)}
    context = ssl.create_default_context(cafile=tmp_path / "tls.crt")
    context.check_hostname = False
    with subprocess.Popen(
        [sys.executable, "-m", "bem_fleet.services.gateway"], env={**os.environ, **settings}
    ) as process:
        limit, status = time.monotonic() + 60, 0
        while not status and time.monotonic() < limit:
            try:
                url = f"https://127.0.0.1:{port}/healthz"
                with urllib.request.urlopen(url, context=context) as answer:
                    status = answer.status
            except OSError:
                time.sleep(0.05)
        process.terminate()
        code = process.wait(timeout=30)

    assert status == 200
    assert code in (0, -signal.SIGTERM)  # uvicorn raises the signal again after it has drained


def test_missing_certificate_stops_the_start(tmp_path: Path) -> None:
    """A folder without a certificate is an error, not plain HTTP."""
    with pytest.raises(FileNotFoundError):
        serve(GatewaySettings(address=f"127.0.0.1:{free_port()}", tls=tmp_path))

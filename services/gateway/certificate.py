"""The edge's certificate: read as cert-manager writes it, and read again when it is renewed."""

import ssl
import threading
from pathlib import Path

from fleet import logs

CERTIFICATE, KEY = "tls.crt", "tls.key"
_LOG = logs.get("gateway.certificate")


class Renewal:
    """Gives new connections the newest certificate; those that are open keep theirs.

    Args:
        context: What the server listens with.
        folder: Has ``tls.crt`` and ``tls.key``.
        every_s: Time between two looks, in seconds.
    """

    def __init__(self, context: ssl.SSLContext, folder: Path, every_s: float = 30.0) -> None:
        self._context, self._folder, self._every_s = context, folder, every_s
        self._ended = threading.Event()
        self._seen = self._newest()
        self._thread = threading.Thread(target=self._run, name="certificate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _newest(self) -> tuple[bytes, bytes]:
        return (self._folder / CERTIFICATE).read_bytes(), (self._folder / KEY).read_bytes()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                if (newest := self._newest()) != self._seen:
                    self._context.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY)
                    self._seen = newest
                    _LOG.info("certificate renewed")
            except (OSError, ssl.SSLError) as err:
                _LOG.warning("certificate not renewed", reason=str(err))

"""TLS certificate reloading: the gateway's key pair, read again when cert-manager renews it."""

import ssl
import threading
from pathlib import Path

from fleet import logs

CERTIFICATE, KEY = "tls.crt", "tls.key"
_LOG = logs.get("gateway.certificate")


class CertificateReloader:
    """Serves new connections with the newest certificate; open connections keep theirs.

    Args:
        context: TLS context of the listening server.
        folder: Folder with ``tls.crt`` and ``tls.key``.
        interval_s: Time between two reads of the files, in seconds.
    """

    def __init__(self, context: ssl.SSLContext, folder: Path, interval_s: float = 30.0) -> None:
        self._context, self._folder, self._interval_s = context, folder, interval_s
        self._stopped = threading.Event()
        self._loaded = self._read()
        self._thread = threading.Thread(target=self._watch, name="certificate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reloading."""
        self._stopped.set()
        self._thread.join()

    def _read(self) -> tuple[bytes, bytes]:
        return (self._folder / CERTIFICATE).read_bytes(), (self._folder / KEY).read_bytes()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                if (current := self._read()) != self._loaded:
                    files = (self._folder / CERTIFICATE, self._folder / KEY)
                    # A pair that does not match, as while it is being written, would leave the
                    # live context without a key: try it on another context first.
                    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)
                    self._context.load_cert_chain(*files)
                    self._loaded = current
                    _LOG.info("certificate reloaded")
            except (OSError, ssl.SSLError) as err:
                _LOG.warning("certificate not reloaded", reason=str(err))

"""TLS certificate reloading: the gateway's key pair, read again when cert-manager renews it."""

import ssl
import threading
from pathlib import Path

from fleet import logs

CERTIFICATE, KEY = "tls.crt", "tls.key"
_LOG = logs.get("gateway.certificate")


class CertificateReloader:
    """Serves new connections with the newest certificate; open connections keep theirs.

    A handshake takes certificate and key from one context, which is complete before it is chosen.
    The listening context itself is never changed: between its new certificate and its new key,
    handshakes would fail for want of a common cipher.

    Args:
        context: TLS context of the listening server; its callback for server names is taken.
        folder: Folder with ``tls.crt`` and ``tls.key``.
        interval_s: Time between two reads of the files, in seconds.
    """

    def __init__(self, context: ssl.SSLContext, folder: Path, interval_s: float = 30.0) -> None:
        self._folder, self._interval_s = folder, interval_s
        self._stopped = threading.Event()
        self._loaded = self._read()
        self._newest = context
        # OpenSSL calls it in every handshake, with or without a server name.
        context.sni_callback = self._choose
        self._thread = threading.Thread(target=self._watch, name="certificate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reloading."""
        self._stopped.set()
        self._thread.join()

    def _read(self) -> tuple[bytes, bytes]:
        return (self._folder / CERTIFICATE).read_bytes(), (self._folder / KEY).read_bytes()

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                if (current := self._read()) != self._loaded:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    # Fails for a pair that does not match, as while it is being written.
                    context.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY)
                    self._newest, self._loaded = context, current
                    _LOG.info("certificate reloaded")
            except (OSError, ssl.SSLError) as err:
                _LOG.warning("certificate not reloaded", reason=str(err))

"""Certificates between pods: key pair and authorities of a folder, reloaded when it changes.

The folder has the files of a Secret of cert-manager: ``tls.crt`` and ``tls.key``, the key pair of
this process as server and as client, and ``ca.crt``, the authorities of its peers. New connections
have the newest files; open ones keep theirs.
"""

import math
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import Counter, Gauge

from fleet import logs
from fleet.settings import FleetSettings, TlsMode

CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"
_LOG = logs.get("fleet.certificates")
_HANDSHAKE_ROUNDS = 10
EXPIRY = Gauge(
    "bem_fleet_certificate_seconds_to_expiry",
    "Seconds until the certificate between pods or its authority expires; negative afterwards.",
    ["folder"],
)
VALID = Gauge(
    "bem_fleet_certificate_valid",
    "1 while the certificate's files are in force; 0 while they are invalid and older ones are.",
    ["folder"],
)
RELOADS = Counter(
    "bem_fleet_certificate_reloads_total",
    "Changes of the certificate between pods: applied, or rejected as invalid.",
    ["outcome"],
)


class CertificateError(OSError):
    """The files of a folder are no certificate that peers accept; the message names the folder."""


@dataclass(frozen=True)
class Certificate:
    """One version of the files.

    Attributes:
        chain: Certificate with its intermediates, PEM.
        key: Private key, PEM.
        authorities: Authorities of the peers, PEM.
    """

    chain: bytes
    key: bytes
    authorities: bytes


class CertificateFolder:
    """Newest valid certificate of a folder.

    A certificate counts as valid if a peer with the same authorities accepts it: the key matches,
    the chain ends at an authority, and it is neither expired nor too new. While the files are
    invalid, as in the middle of a change, the last valid ones stay in force.

    Args:
        folder: Folder with ``tls.crt``, ``tls.key`` and ``ca.crt``.
        mutual: Whether the certificate must be good for clients too.
        interval_s: Least time between two reads, in seconds.

    Raises:
        CertificateError: The files are missing or invalid.
    """

    def __init__(self, folder: Path, *, mutual: bool = True, interval_s: float = 1.0) -> None:
        self._folder, self._mutual, self._interval_s = folder, mutual, interval_s
        # Handshakes, calls and scrapes read in threads of their own.
        self._lock = threading.Lock()
        self._current, self._expires_unix_s = _load(folder, mutual=mutual)
        self._problem = ""
        self._read_at = time.monotonic()
        self._valid = VALID.labels(str(folder))
        self._valid.set(1)
        EXPIRY.labels(str(folder)).set_function(self.seconds_to_expiry)

    @property
    def current(self) -> Certificate:
        """Newest valid certificate; the same object until it changes."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._interval_s:
                self._read_at = time.monotonic()
                self._reload()
            return self._current

    def seconds_to_expiry(self) -> float:
        """Return the time until the newest valid certificate expires; negative afterwards."""
        _ = self.current  # reads the files again
        return self._expires_unix_s - time.time()

    def _reload(self) -> None:
        try:
            # Files that are in force are not checked again: they may have expired since.
            found = _read(self._folder)
            if found != self._current:
                self._current, self._expires_unix_s = _load(self._folder, mutual=self._mutual)
                RELOADS.labels("applied").inc()
                _LOG.info("certificate reloaded", folder=str(self._folder))
        except CertificateError as err:
            self._valid.set(0)
            if str(err) != self._problem:
                self._problem = str(err)
                RELOADS.labels("rejected").inc()
                _LOG.error("certificate rejected", reason=str(err), effect="the last one stays")
            return
        self._problem = ""
        self._valid.set(1)


@cache
def _folder(path: Path, *, mutual: bool) -> CertificateFolder:
    return CertificateFolder(path, mutual=mutual)


def certificates_of(settings: FleetSettings) -> CertificateFolder | None:
    """Return the process's certificate between pods; None if TLS is off.

    Raises:
        CertificateError: The files are missing or invalid.
    """
    if settings.tls_mode is TlsMode.OFF or settings.tls_folder is None:
        return None
    return _folder(settings.tls_folder, mutual=settings.tls_mode is TlsMode.MUTUAL)


def server_credentials(folder: CertificateFolder, *, mutual: bool) -> grpc.ServerCredentials:
    """Return credentials of a server that take the newest certificate at each handshake.

    Args:
        folder: Certificate of the server, and authorities of its clients.
        mutual: Whether clients without a certificate of an authority are refused.
    """
    served = folder.current

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        if (newest := folder.current) is served:
            return None
        served = newest
        return configuration(newest)

    def configuration(one: Certificate) -> grpc.ServerCertificateConfiguration:
        authorities = one.authorities if mutual else None
        return grpc.ssl_server_certificate_configuration([(one.key, one.chain)], authorities)

    return grpc.dynamic_ssl_server_credentials(
        configuration(served),
        fetch,  # type: ignore[arg-type]  # the stubs leave out None, which says "unchanged"
        require_client_authentication=mutual,
    )


def channel_credentials(one: Certificate) -> grpc.ChannelCredentials:
    """Return credentials of a client, which shows its certificate to servers that ask for it."""
    return grpc.ssl_channel_credentials(one.authorities, one.key, one.chain)


def _read(folder: Path) -> Certificate:
    # Mounted Secrets are links into a folder that a change replaces as a whole.
    try:
        real = (folder / CERTIFICATE).resolve(strict=True).parent
        return Certificate(*((real / name).read_bytes() for name in (CERTIFICATE, KEY, AUTHORITY)))
    except OSError as err:
        raise CertificateError(
            f"tls_folder: {err.filename}: {err.strerror}; a certificate has the files "
            f"{CERTIFICATE}, {KEY} and {AUTHORITY}; mount its Secret"
        ) from err


def _load(folder: Path, *, mutual: bool) -> tuple[Certificate, float]:
    """Return a certificate that its peers accept, and its end in Unix seconds.

    Raises:
        CertificateError: The files are missing, invalid or being written.
    """
    found = _read(folder)
    real = (folder / CERTIFICATE).resolve().parent
    try:
        server = _context(ssl.PROTOCOL_TLS_SERVER, real, verify=mutual)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, real, verify=True)
        shown = _handshake(client, server)
    except OSError as err:  # ssl.SSLError is one
        reason = getattr(err, "verify_message", "") or err.strerror or str(err)
        raise CertificateError(
            f"tls_folder: {folder}: {reason}; a certificate needs its own key, an authority in "
            f"{AUTHORITY} and an end in the future; renew it"
        ) from err
    if _read(folder) != found:
        raise CertificateError(f"tls_folder: {folder}: changes while it is read; wait for its end")
    authorities = max((_end(one) for one in client.get_ca_certs()), default=math.inf)
    return found, min(_end(shown), authorities)


def _context(protocol: int, folder: Path, *, verify: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    context.load_verify_locations(folder / AUTHORITY)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC does
    return context


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> Mapping[str, Any]:
    """Return the certificate that a server shows to a client in memory.

    Raises:
        ssl.SSLError: One of them refuses the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    # The server judges the client's certificate after the client has finished.
    waiting = [asking, answering]
    for _ in range(_HANDSHAKE_ROUNDS):
        for side in list(waiting):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
    if waiting:
        raise ssl.SSLError("the handshake does not end")
    return asking.getpeercert() or {}


def _end(certificate: Mapping[str, Any]) -> float:
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))

"""Channel of a command to a service: plain, or with the certificate that a variable names."""

import os
from pathlib import Path

import grpc
from fleet.certificates import CertificateError, CertificateFolder, channel_credentials
from fleet.errors import InvalidArgumentError

VARIABLE = "FLEETCTL_TLS_FOLDER"
"""Environment variable with a folder of ``tls.crt``, ``tls.key`` and ``ca.crt``."""


def open_operator_channel(address: str) -> grpc.Channel:
    """Open a channel to a service; with TLS if the variable names a certificate.

    Args:
        address: Address of the service, ``host:port`` or ``unix:/path``.

    Raises:
        InvalidArgumentError: The folder that the variable names holds no valid certificate.
    """
    named = os.environ.get(VARIABLE)
    if not named or address.startswith("unix:"):
        return grpc.insecure_channel(address)
    try:
        certificate = CertificateFolder(Path(named)).current
    except CertificateError as err:
        raise InvalidArgumentError(VARIABLE, str(err)) from err
    return grpc.secure_channel(address, channel_credentials(certificate))

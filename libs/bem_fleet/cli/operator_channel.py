"""Calls of a command to a service: plain, or with the certificate that a variable names."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
from fleet.access.own_key import Metadata
from fleet.certificates import CertificateError, CertificateFolder, channel_credentials
from fleet.errors import InvalidArgumentError, UnavailableError, details_of

from bem_fleet.cli.application import NO, YES
from bem_fleet.cli.operator_key import operator_metadata

_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
Stub = TypeVar("Stub")

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


@contextmanager
def service_channel(name: str, address: str) -> Iterator[grpc.Channel]:
    """Open a channel for the calls in the body; a refusal stays an error of gRPC.

    Args:
        name: Name of the service in messages.
        address: Address of the service, ``host:port`` or ``unix:/path``.

    Raises:
        InvalidArgumentError: The folder that the variable names holds no valid certificate.
        UnavailableError: The service cannot be reached.
    """
    with open_operator_channel(address) as channel:
        try:
            yield channel
        except grpc.RpcError as err:
            details = details_of(err)
            if details.code in _UNREACHABLE:
                raise UnavailableError(f"{name} at {address}: {details.message}") from err
            raise


def call_service(
    name: str,
    address: str,
    make_stub: Callable[[grpc.Channel], Stub],
    call: Callable[[Stub, Metadata], str],
) -> int:
    """Call a service with the operator's key and print the result; a refusal is exit code 1.

    Args:
        name: Name of the service in messages.
        address: Address of the service, ``host:port`` or ``unix:/path``.
        make_stub: Makes the stub of a channel.
        call: Calls with the stub and the key's metadata; returns what is printed.

    Raises:
        InvalidArgumentError: The folder that the variable names holds no valid certificate.
        UnavailableError: The service cannot be reached.
    """
    try:
        with service_channel(name, address) as channel:
            print(call(make_stub(channel), operator_metadata(address)))
    except grpc.RpcError as err:
        details = details_of(err)
        print(f"{details.code.name}: {details.message}")
        return NO
    return YES

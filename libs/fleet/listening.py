"""Listeners of gRPC servers: TCP ports with or without TLS, and private unix sockets."""

import socket
from contextlib import suppress
from pathlib import Path

import grpc
from grpc import aio

from fleet.files import private_umask


def listen(
    server: aio.Server, address: str, credentials: grpc.ServerCredentials | None = None
) -> str:
    """Listen on an address and return it with the real port.

    The stale socket file of a killed process is removed first. A socket is for this process's user
    only: whoever connects to a mission passes its sidecar by.

    Args:
        server: The server.
        address: ``host:port``, or ``unix:/path``, which is plain in any case.
        credentials: Credentials of TLS; None for a plain port.

    Raises:
        OSError: The address is in use or malformed.
    """
    is_socket = address.startswith("unix:")
    if is_socket:
        path = Path(address.removeprefix("unix:").removeprefix("//"))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.unlink()
    try:
        with private_umask():
            if credentials is None or is_socket:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
    except RuntimeError as err:
        raise OSError(
            f"address: cannot listen on {address}; it is in use or malformed; choose another one"
        ) from err
    return address if is_socket else f"{address.rpartition(':')[0]}:{port}"


def tcp_endpoint(address: str) -> tuple[str, int]:
    """Return host and port of an HTTP listener, as sockets take them.

    ``[::]`` accepts IPv4 as well. Where the system has no IPv6 it becomes ``0.0.0.0``, as in gRPC.

    Args:
        address: ``host:port``; an IPv6 host is in brackets.

    Raises:
        ValueError: The port is no number.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if host == "::" and not _has_ipv6():
        host = "0.0.0.0"  # noqa: S104 - all interfaces were asked for
    return host, int(port)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True

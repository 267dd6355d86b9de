"""Listeners of gRPC servers: TCP ports with or without TLS, and private unix sockets."""

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

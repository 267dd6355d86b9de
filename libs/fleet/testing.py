"""Test fixtures on loopback: free ports and a real Redis."""

import fcntl
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from fleet.embedded_redis import redis_command

START_TIMEOUT_S = 10.0
# Above the kubelet's, below Kubernetes' node ports and the kernel's own.
PORTS = range(12_000, 30_000)
CURSOR = Path(tempfile.gettempdir()) / f"bem-test-ports-{os.getuid()}"


def free_port() -> int:
    """Return a free TCP port of the loopback interface that no other caller on the machine gets.

    Servers bind the port later, in other processes. Ports that the kernel gives out by itself
    (32768 and above) could be the source of somebody's connection by then.

    Raises:
        OSError: None of the ports is free.
    """
    with CURSOR.open("a+") as cursor:
        fcntl.flock(cursor, fcntl.LOCK_EX)
        cursor.seek(0)
        begin = (int(cursor.read() or -1) + 1) % len(PORTS)
        order = [*PORTS[begin:], *PORTS[:begin]]
        port: int | None = next((one for one in order if _is_free(one)), None)
        if port is None:
            raise OSError(f"no port from {PORTS[0]} to {PORTS[-1]} is free")
        cursor.truncate(0)
        cursor.write(str(PORTS.index(port)))
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class RedisServer:
    """Redis server that writes to disk before it answers, as the fleet runs it.

    Args:
        folder: Folder of its append-only file, which survives ``kill`` and ``start``.
        acl: File with its users; None lets everyone in.
    """

    def __init__(self, folder: Path, acl: Path | None = None) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder, self._acl = folder, acl
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers; an open port may still be loading its data.

        Raises:
            TimeoutError: The server does not answer within ten seconds.
        """
        command = redis_command(self.port, self._folder, self._acl)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, umask=0o077)
        limit = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < limit:
            if self._answers():
                return
            time.sleep(0.02)  # another program gives no event to wait for
        raise TimeoutError(
            f"redis-server does not answer on {self.port} after {START_TIMEOUT_S:g} s"
        )

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                # With users the connection lacks a login; data is loaded before they are asked for.
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except ConnectionError:
            return False

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

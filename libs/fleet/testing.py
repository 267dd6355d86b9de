"""Real servers for tests, on loopback, ended with the test."""

import socket
import subprocess
import time
from pathlib import Path

from fleet.embedded_redis import redis_command

START_S = 10.0


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A real Redis that writes to disk before it answers, as the fleet runs it.

    Args:
        folder: Where its append-only file lies; kept over ``kill`` and ``start``.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers: a port alone may still be loading its data.

        Raises:
            TimeoutError: It does not within ten seconds.
        """
        command = redis_command(self.port, self._folder)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        limit = time.monotonic() + START_S
        while time.monotonic() < limit:
            if self._answers():
                return
            time.sleep(0.02)  # there is no event to wait for: it is another program
        raise TimeoutError(f"redis-server does not answer on {self.port} after {START_S:g} s")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except ConnectionError:
            return False

    def kill(self) -> None:
        """End it without a word, as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

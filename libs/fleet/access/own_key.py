"""Key of this process for its calls to other services, re-read when its file is rotated."""

import time
from pathlib import Path

from fleet import logs
from fleet.wire import AUTHORIZATION

_LOG = logs.get("fleet.access")
Metadata = tuple[tuple[str, str], ...]


class OwnKey:
    """Key in a file; without a file calls carry no key.

    Args:
        path: File with the key alone; None for none.
        interval_s: Least time between two reads, in seconds.
    """

    def __init__(self, path: Path | None, interval_s: float = 1.0) -> None:
        self._path, self._interval_s = path, interval_s
        self._header = ""
        self._read_at = float("-inf")

    @property
    def header(self) -> str:
        """Value of ``authorization``, ``Bearer <key>``; empty without a key."""
        if self._path is not None and time.monotonic() - self._read_at >= self._interval_s:
            self._read_at = time.monotonic()
            try:
                self._header = bearer(self._path.read_text().strip())
            except OSError as err:
                # Mounted Secrets are swapped: the last key stays until the file is back.
                _LOG.error("service key not readable", path=str(self._path), reason=err.strerror)
        return self._header

    def metadata(self) -> Metadata:
        """Return the gRPC metadata of a call; empty without a key."""
        header = self.header
        return ((AUTHORIZATION, header),) if header else ()


def bearer(key: str) -> str:
    """Return the value of ``authorization`` for a key; empty for an empty key."""
    return f"Bearer {key}" if key else ""

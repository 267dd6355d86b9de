"""Anchors of the audit chain: its head over time, in a file outside Redis.

The hash of a record covers all records before it, so that one head, kept where the writers of Redis
cannot reach, proves the whole chain up to it. A file of anchors has one line of JSON for each:
sequence number, hash and stream id of a record, the time, and an HMAC over the line and the HMAC of
the line before it. The file is only appended to; a line that a crash cut off is replaced.
"""

import hmac
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.audit_chain import GENESIS, derive_key

_ROTATE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Anchor:
    """Head of the chain at one time.

    Attributes:
        seq: Sequence number of the last record; 0 for an empty chain.
        hash: Hash of that record.
        id: Stream id of that record; empty for an empty chain.
    """

    seq: int = 0
    hash: str = GENESIS
    id: str = ""

    @property
    def head(self) -> str:
        """Head in the form of the chain, ``<sequence number>:<hash>``; empty for none."""
        return f"{self.seq}:{self.hash}" if self.seq else ""


class AnchorFileError(ValueError):
    """A file of anchors that is missing, or was written by someone without the key."""


class AnchorFile:
    """Appends anchors to a file and reads them back.

    Args:
        path: The file; its folder exists.
        keys: Secrets of the HMAC: the first signs, all of them verify; none for a plain hash.
    """

    def __init__(self, path: Path, keys: Sequence[bytes] = ()) -> None:
        self._path = path
        self._keys = [derive_key(key, "anchor") for key in (keys or (b"",))]
        self._last, self._last_mac = Anchor(), ""
        self._state: tuple[int, int, int] | None = None

    def create(self) -> None:
        """Begin the file with an empty chain, unless it has an anchor."""
        if not self._path.exists() or b"\n" not in self._path.read_bytes():
            self.append(Anchor())

    def last(self) -> Anchor:
        """Return the newest anchor; the file is read again if another process changed it.

        Raises:
            AnchorFileError: The file does not exist, or a line was edited, dropped or moved.
        """
        if self._state is None or self._state != self._file_state():
            self._last = self.read()[-1]
        return self._last

    def read(self) -> list[Anchor]:
        """Return the anchors, oldest first.

        Raises:
            AnchorFileError: The file does not exist, or a line was edited, dropped or moved.
        """
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError as err:
            raise AnchorFileError(f"{self._path}: there are no anchors of this log") from err
        anchors, mac = [], ""
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break  # cut off by a crash
            anchor, mac = self._parse(line, mac, number)
            anchors.append(anchor)
        if not anchors:
            raise AnchorFileError(f"{self._path}: has no anchor")
        self._last_mac, self._state = mac, self._file_state()
        return anchors

    def append(self, anchor: Anchor) -> None:
        """Append an anchor to the last one that was read; it is on disk when this returns."""
        rotates = self._path.exists() and self._path.stat().st_size > _ROTATE_BYTES
        if rotates:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._last_mac = ""
        body = {"seq": anchor.seq, "hash": anchor.hash, "id": anchor.id}
        body["unix_ms"] = int(time.time() * 1000)
        self._last_mac = _mac(self._keys[0], body, self._last_mac)
        line = json.dumps({**body, "mac": self._last_mac}) + "\n"
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as stream:
            stream.truncate(_end_of_last_line(stream.read()))
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._last, self._state = anchor, self._file_state()

    def _file_state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _parse(self, line: bytes, previous: str, number: int) -> tuple[Anchor, str]:
        try:
            body = json.loads(line)
            mac = str(body.pop("mac"))
            anchor = Anchor(int(body["seq"]), str(body["hash"]), str(body["id"]))
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise AnchorFileError(f"{self._path}: line {number} is no anchor") from err
        made = (_mac(key, body, previous) for key in self._keys)
        if not any(hmac.compare_digest(mac.encode(), each.encode()) for each in made):
            raise AnchorFileError(
                f"{self._path}: line {number} was edited, dropped or moved, or has another key"
            )
        return anchor, mac


def _mac(key: bytes, body: object, previous: str) -> str:
    text = json.dumps([previous, body], sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, text.encode(), "sha256").hex()


def _end_of_last_line(content: bytes) -> int:
    return content.rfind(b"\n") + 1

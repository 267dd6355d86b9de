"""The policy in force: read again when its file changes; a bad file changes nothing."""

import asyncio
from pathlib import Path

from bem_fleet.guard.policy import PolicyError, SafetyPolicy, load
from fleet import logs
from prometheus_client import Counter

_LOG = logs.get("safety.policy")
RELOADS = Counter("bem_safety_policy_reloads_total", "Times the file was read.", ["outcome"])


class PolicyFile:
    """Watches one file.

    Attributes:
        current: What is in force.
        problem: Why the file as it lies there is not in force; empty when it is.

    Args:
        path: The file.
        interval_s: Time between two looks.

    Raises:
        PolicyError: The file is bad at the start: a sidecar without rules must not run.
    """

    def __init__(self, path: Path, interval_s: float = 0.5) -> None:
        self.current: SafetyPolicy = load(path)
        self.problem = ""
        self._path = path
        self._interval_s = interval_s
        self._seen = self._mark()

    def refresh(self) -> bool:
        """Read the file again if it changed; returns whether another policy is in force."""
        mark = self._mark()
        if mark == self._seen:
            return False
        self._seen = mark
        try:
            found = load(self._path)
        except PolicyError as err:
            self.problem = str(err)
            RELOADS.labels("refused").inc()
            _LOG.error("policy refused", reason=self.problem, kept=self.current.version)
            return False
        changed = found.version != self.current.version
        self.current, self.problem = found, ""
        RELOADS.labels("taken").inc()
        _LOG.info("policy in force", version=found.version)
        return changed

    async def run(self) -> None:
        """Look again and again; ends when cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            self.refresh()

    def _mark(self) -> tuple[int, int, int] | None:
        """Return what changes when the file does; a mounted ConfigMap changes by its inode."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

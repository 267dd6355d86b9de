"""Hot-reloaded safety policy file: an invalid file leaves the last valid policy in force."""

import asyncio
from pathlib import Path

from bem_fleet.guard.policy import PolicyError, SafetyPolicy, load_policy
from fleet import logs
from prometheus_client import Counter

_LOG = logs.get("safety.policy")
RELOADS = Counter(
    "bem_safety_policy_reloads_total",
    "Reloads of the policy file: applied, or rejected as invalid.",
    ["outcome"],
)


class PolicyFile:
    """Reloads one policy file when it changes.

    Args:
        path: Path of the file.
        interval_s: Seconds between two checks for a change.

    Attributes:
        current: Policy in force.
        error: Reason why the present file is not in force; empty if it is.

    Raises:
        PolicyError: The file is invalid at the start; a sidecar must not run without a policy.
    """

    def __init__(self, path: Path, interval_s: float = 0.5) -> None:
        self.current: SafetyPolicy = load_policy(path)
        self.error = ""
        self._path = path
        self._interval_s = interval_s
        self._fingerprint = self._read_fingerprint()

    def refresh(self) -> bool:
        """Reload the file if it changed; returns whether another policy is in force."""
        fingerprint = self._read_fingerprint()
        if fingerprint == self._fingerprint:
            return False
        self._fingerprint = fingerprint
        try:
            policy = load_policy(self._path)
        except PolicyError as err:
            self.error = str(err)
            RELOADS.labels("rejected").inc()
            _LOG.error("policy rejected", reason=self.error, in_force=self.current.version)
            return False
        changed = policy.version != self.current.version
        self.current, self.error = policy, ""
        RELOADS.labels("applied").inc()
        _LOG.info("policy applied", version=policy.version)
        return changed

    async def run(self) -> None:
        """Check for changes periodically; ends when cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            self.refresh()

    def _read_fingerprint(self) -> tuple[int, int, int] | None:
        """Return time, size and inode; a mounted ConfigMap changes its inode only."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

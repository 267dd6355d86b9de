"""Proportional memory of a process tree.

The proportional set size (PSS) divides each shared page by the number of processes that map it, so
that the sum over all processes is what the fleet really occupies. The resident set size would count
the mapped weight file of the base model once for each mission.
"""

from pathlib import Path


def tree_pss_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the PSS of a process and all its descendants.

    Args:
        pid: Root of the tree; 0 for a process that does not run.
        proc: The proc file system.

    Returns:
        Bytes; None where the kernel does not tell or the process does not run.
    """
    if pid <= 0 or (total := _pss_bytes(pid, proc)) is None:
        return None
    for child in _children(pid, proc):
        # A child that ended meanwhile occupies nothing.
        total += tree_pss_bytes(child, proc) or 0
    return total


def _pss_bytes(pid: int, proc: Path) -> int | None:
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith("Pss:"))
    return next((int(words[1]) * 1024 for words in found), None)


def _children(pid: int, proc: Path) -> list[int]:
    """Return the ids of the child processes: each thread lists those that it started."""
    found: list[int] = []
    for file in (proc / str(pid) / "task").glob("*/children"):
        try:
            found += map(int, file.read_text().split())
        except OSError:
            continue  # the thread ended meanwhile
    return found

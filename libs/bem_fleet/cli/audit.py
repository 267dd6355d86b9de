"""``fleetctl audit verify``: whether the audit log is as the sidecars wrote it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis
from fleet.audit_chain import ChainFault, head_key, verify_chain
from fleet.errors import UnavailableError

_PAGE = 1000
_SHOWN = 20


def verify(redis_url: str, stream: str, key: bytes, start: str) -> int:
    """Check every record of a chain and print what is wrong with it.

    Args:
        redis_url: Such as ``redis://127.0.0.1:6379/0``.
        stream: The stream's key.
        key: The sidecars' secret; empty if they have none.
        start: Head before the first record; empty for a whole chain.

    Returns:
        0 if the chain is whole, 1 if not.

    Raises:
        UnavailableError: Redis cannot be reached.
    """
    found, count, head = _read(redis_url, stream, key, start)
    for fault in found[:_SHOWN]:
        print(f"{stream} {fault.location}: {fault.problem}")
    if len(found) > _SHOWN:
        print(f"and {len(found) - _SHOWN} more")
    if found:
        print(f"{stream}: {len(found)} faults in {count} records")
        return 1
    print(f"{stream}: {count} records, whole; head {head or 'none'}")
    return 0


def _read(redis_url: str, stream: str, key: bytes, start: str) -> tuple[list[ChainFault], int, str]:
    """Return faults, number of records and head; records written meanwhile are left out."""
    try:
        with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=10) as client:
            pipe = client.pipeline(transaction=True)  # head and last id of one moment
            pipe.get(head_key(stream))
            pipe.xrevrange(stream, count=1)
            head, last = pipe.execute()
            seen = 0

            def records() -> Iterator[tuple[str, Mapping[str, str]]]:
                nonlocal seen
                at = "-"
                while last and (page := client.xrange(stream, at, last[0][0], count=_PAGE)):
                    seen += len(page)
                    yield from page
                    at = f"({page[-1][0]}"

            return verify_chain(records(), head or "", key, start), seen, head or ""
    except redis.RedisError as err:
        raise UnavailableError(f"{redis_url}: {err}") from err


def key_from(path: Path | None) -> bytes:
    """Return the secret in a file, or the sidecars' own setting's, or none.

    Raises:
        UnavailableError: The file cannot be read.
    """
    chosen = path or (
        Path(found) if (found := os.environ.get("BEM_SAFETY_AUDIT_KEY_FILE")) else None
    )
    try:
        return chosen.read_bytes().strip() if chosen else b""
    except OSError as err:
        raise UnavailableError(f"key of the audit log: {err}") from err

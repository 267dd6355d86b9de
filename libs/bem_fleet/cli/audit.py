"""``fleetctl audit verify``: verification of the audit log's hash chain."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis
from fleet.audit_chain import ChainFault, head_key, verify_chain
from fleet.errors import UnavailableError

_PAGE_RECORDS = 1000
_MAX_PRINTED = 20


def verify(redis_url: str, stream: str, key: bytes, start: str) -> int:
    """Check every record of a chain and print each fault.

    Args:
        redis_url: URL of Redis, such as ``redis://127.0.0.1:6379/0``.
        stream: Key of the Redis stream.
        key: Secret of the sidecars' HMAC; empty if they have none.
        start: Head before the first record; empty for a chain from its beginning.

    Returns:
        0 if the chain is valid, 1 if not.

    Raises:
        UnavailableError: Redis cannot be reached.
    """
    found, count, head = _read(redis_url, stream, key, start)
    for fault in found[:_MAX_PRINTED]:
        print(f"{stream} {fault.location}: {fault.problem}")
    if len(found) > _MAX_PRINTED:
        print(f"and {len(found) - _MAX_PRINTED} more")
    if found:
        print(f"{stream}: {len(found)} faults in {count} records")
        return 1
    print(f"{stream}: {count} records, hash chain valid; head {head or 'none'}")
    return 0


def _read(redis_url: str, stream: str, key: bytes, start: str) -> tuple[list[ChainFault], int, str]:
    """Return faults, number of records and head; records written meanwhile are not read."""
    try:
        with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=10) as client:
            pipe = client.pipeline(transaction=True)  # head and last id must be of the same moment
            pipe.get(head_key(stream))
            pipe.xrevrange(stream, count=1)
            head, last = pipe.execute()
            seen = 0

            def records() -> Iterator[tuple[str, Mapping[str, str]]]:
                nonlocal seen
                at = "-"
                while last and (page := client.xrange(stream, at, last[0][0], count=_PAGE_RECORDS)):
                    seen += len(page)
                    yield from page
                    at = f"({page[-1][0]}"

            return verify_chain(records(), head or "", key, start), seen, head or ""
    except redis.RedisError as err:
        raise UnavailableError(f"{redis_url}: {err}") from err


def key_from(path: Path | None) -> bytes:
    """Return the secret of a file; without one, of the file that the sidecars' setting names.

    Raises:
        UnavailableError: The file cannot be read.
    """
    setting = os.environ.get("BEM_SAFETY_AUDIT_KEY_FILE")
    chosen = path or (Path(setting) if setting else None)
    try:
        return chosen.read_bytes().strip() if chosen else b""
    except OSError as err:
        raise UnavailableError(f"key_file: {err}; name a file that this user may read") from err

"""``fleetctl audit verify``: verification of the audit log's hash chain and of its anchors."""

import os
from pathlib import Path

import redis
from fleet.audit_anchor import Anchor, AnchorFile
from fleet.audit_chain import read_keys
from fleet.audit_log import verify_log
from fleet.errors import UnavailableError

_MAX_PRINTED = 20


def verify(
    redis_url: str, stream: str, keys: tuple[bytes, ...], start: str, anchor: Path | None
) -> int:
    """Check every record of a log and print each fault.

    Args:
        redis_url: URL of Redis, such as ``redis://127.0.0.1:6379/0``.
        stream: Key of the Redis stream.
        keys: Secrets of the sidecars' HMAC; none if they have none.
        start: Head before the first record; empty for a log from its beginning.
        anchor: File of the witness's anchors; None checks the chain alone, in which a cut end that
            took the head along is not seen.

    Returns:
        0 if the log is valid, 1 if not.

    Raises:
        UnavailableError: Redis cannot be reached.
    """
    try:
        anchors = AnchorFile(anchor, keys).read() if anchor else None  # before the log is read
    except ValueError as err:
        print(f"{stream} anchor: {err}")
        return 1
    try:
        with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=10) as client:
            report = verify_log(client, stream, keys, start, anchors)
    except redis.RedisError as err:
        raise UnavailableError(f"{_without_login(redis_url)}: {err}") from err
    for fault in report.faults[:_MAX_PRINTED]:
        print(f"{stream} {fault.location}: {fault.problem}")
    if len(report.faults) > _MAX_PRINTED:
        print(f"and {len(report.faults) - _MAX_PRINTED} more")
    if report.faults:
        print(f"{stream}: {len(report.faults)} faults in {report.records} records")
        return 1
    print(f"{stream}: {report.records} records, hash chain valid; head {report.head or 'none'}")
    print(f"{stream}: {_anchored(anchors, report.unanchored)}")
    return 0


def _without_login(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _anchored(anchors: list[Anchor] | None, unanchored: int | None) -> str:
    if not anchors:
        return "not compared with anchors: a cut end is not seen; name their file with --anchor"
    return f"anchored up to record {anchors[-1].seq}, {unanchored} not anchored yet"


def keys_from(path: Path | None) -> tuple[bytes, ...]:
    """Return the secrets of a file; without one, of the file that the sidecars' setting names.

    Raises:
        UnavailableError: The file cannot be read or has no key.
    """
    setting = os.environ.get("BEM_SAFETY_AUDIT_KEY_FILE")
    chosen = path or (Path(setting) if setting else None)
    try:
        return read_keys(chosen) if chosen else ()
    except (OSError, ValueError) as err:
        raise UnavailableError(f"key_file: {err}; name a file that this user may read") from err

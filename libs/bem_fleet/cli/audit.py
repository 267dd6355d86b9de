"""``fleetctl audit``: the audit log's newest records, and verification of its chain and anchors."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from fleet.audit_anchor import Anchor, AnchorFile
from fleet.audit_chain import read_keys
from fleet.audit_log import find_newest, verify_log
from fleet.errors import UnavailableError

from bem_fleet.cli.application import NO, YES
from bem_fleet.cli.cluster import Cluster
from bem_fleet.cli.reports import Report, Table

_WITNESS = ("python", "-m", "bem_fleet.services.safety.audit_witness")
_COLUMNS = ("time", "action", "category", "score", "method", "principal", "status", "request_id")
_MAX_PRINTED = 20


def verify(
    redis_url: str, stream: str, keys: tuple[bytes, ...], start: str, anchor: Path | None
) -> Report:
    """Check every record of a log and report each fault.

    Args:
        redis_url: URL of Redis, such as ``redis://127.0.0.1:6379/0``.
        stream: Key of the Redis stream.
        keys: Secrets of the sidecars' HMAC; none if they have none.
        start: Head before the first record; empty for a log from its beginning.
        anchor: File of the witness's anchors; None checks the chain alone, in which a cut end that
            took the head along is not seen.

    Returns:
        Exit code 0 if the log is valid, 1 if not.

    Raises:
        UnavailableError: Redis cannot be reached.
    """
    try:
        anchors = AnchorFile(anchor, keys).read() if anchor else None  # before the log is read
    except ValueError as err:
        fault = {"location": "anchor", "problem": str(err)}
        return Report({"stream": stream, "faults": [fault]}, [f"{stream} anchor: {err}"], NO)
    with _reading(redis_url) as client:
        report = verify_log(client, stream, keys, start, anchors)
    faults = [{"location": str(one.location), "problem": one.problem} for one in report.faults]
    lines = [f"{stream} {one.location}: {one.problem}" for one in report.faults[:_MAX_PRINTED]]
    if len(faults) > _MAX_PRINTED:
        lines.append(f"and {len(faults) - _MAX_PRINTED} more")
    if faults:
        lines.append(f"{stream}: {len(faults)} faults in {report.records} records")
    else:
        head = report.head or "none"
        lines.append(f"{stream}: {report.records} records, hash chain valid; head {head}")
        lines.append(f"{stream}: {_anchored(anchors, report.unanchored)}")
    data = {
        "stream": stream,
        "records": report.records,
        "head": report.head,
        "unanchored": report.unanchored,
        "faults": faults,
    }
    return Report(data, lines, NO if faults else YES)


def verify_in_cluster(cluster: Cluster) -> Report:
    """Let the witness of a release check its log; the exit code is the witness's.

    Raises:
        UnavailableError: The cluster cannot be reached.
    """
    code, text = cluster.execute(_workload(cluster), *_WITNESS, "verify")
    lines = text.splitlines()
    return Report({"valid": code == YES, "lines": lines}, lines, code)


def newest(redis_url: str, stream: str, count: int, wanted: Mapping[str, str]) -> Report:
    """Report the newest records that have given fields, newest first.

    Args:
        redis_url: URL of Redis.
        stream: Key of the Redis stream.
        count: Largest number of records.
        wanted: Values of fields that a record must have.

    Raises:
        UnavailableError: Redis cannot be reached.
    """
    with _reading(redis_url) as client:
        return _listed(find_newest(client, stream, count, wanted))


def newest_in_cluster(cluster: Cluster, count: int, wanted: Mapping[str, str]) -> Report:
    """Let the witness of a release list records, as ``newest`` does.

    Raises:
        UnavailableError: The cluster or the log cannot be reached.
    """
    pairs = [f"{name}={value}" for name, value in wanted.items()]
    _, text = cluster.execute(_workload(cluster), *_WITNESS, "list", str(count), *pairs)
    return _listed(json.loads(text))


def _workload(cluster: Cluster) -> str:
    return f"statefulset/{cluster.service('witness').name}"


def _listed(records: Sequence[Mapping[str, str]]) -> Report:
    return Report(records, [Table([_COLUMNS, *(_cells(record) for record in records)])])


def _cells(record: Mapping[str, str]) -> tuple[str, ...]:
    milliseconds = int(record["id"].partition("-")[0])
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    return moment, *(record.get(name, "") for name in _COLUMNS[1:])


@contextmanager
def _reading(redis_url: str) -> Iterator[Any]:
    try:
        with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=10) as client:
            yield client
    except redis.RedisError as err:
        raise UnavailableError(f"{_without_login(redis_url)}: {err}") from err


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

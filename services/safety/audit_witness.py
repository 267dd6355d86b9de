"""Witness of the audit chain: follows it and keeps its head in a file outside Redis.

``python -m bem_fleet.services.safety.audit_witness`` looks at the chain periodically, verifies the
records that are new, and anchors the last of them (``fleet.audit_anchor``). Its Redis user can read
the chain and nothing else, and the sidecars' user cannot reach its file: a log that is cut, emptied
or made anew no longer has the anchored record. While a fault lasts nothing is anchored.

``python -m bem_fleet.services.safety.audit_witness verify`` checks the whole log once, as
``fleetctl audit verify`` does, where there is no fleetctl: in the witness's own pod.
``list N field=value ...`` prints the newest N records that have these fields, as a JSON list.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from threading import Event
from typing import Any

import redis
from bem_fleet.services.safety.settings import SafetySettings
from fleet import logs
from fleet.audit_anchor import Anchor, AnchorFile, AnchorFileError
from fleet.audit_chain import HASH, SEQ, read_keys, verify_chain
from fleet.audit_log import LogReader, find_newest, verify_log
from fleet.metrics import MetricsPage
from prometheus_client import Gauge

_LOG = logs.get("safety.audit_witness")
_TIMEOUT_S = 5.0
VALID = Gauge(
    "bem_safety_audit_chain_valid",
    "Whether the audit log has all anchored records and its new ones are valid: 1 or 0.",
)
VALID.set(math.nan)  # neither before the first look, which waits for Redis
ANCHORED = Gauge("bem_safety_audit_anchored_records", "Sequence number of the last anchor.")
UNANCHORED = Gauge("bem_safety_audit_unanchored_records", "Records that have no anchor yet.")
LOOKED = Gauge(
    "bem_safety_audit_look_timestamp_seconds", "Unix time of the last look that read the log."
)


class AuditWitness:
    """Verifies and anchors new records of one chain.

    Args:
        client: Redis client that decodes replies.
        stream: Key of the stream.
        anchors: File of the anchors.
        keys: Secrets of the writers' HMAC; none for plain hashes.

    """

    def __init__(
        self, client: Any, stream: str, anchors: AnchorFile, keys: Sequence[bytes]
    ) -> None:
        self._client, self._stream, self._keys = client, stream, keys
        self._anchors = anchors
        anchors.create()

    def look(self) -> list[str]:
        """Verify what is new since the last anchor and anchor it; return the faults.

        Raises:
            redis.RedisError: Redis cannot be read; that is no fault of the log.
        """
        reader = LogReader(self._client, self._stream)
        try:
            last = self._anchors.last()
        except AnchorFileError as err:
            return _report([str(err)], Anchor(), reader.head)
        now = reader.head[:24] or "none"
        if last.seq and reader.at(last.id).get(HASH) != last.hash:
            problem = f"record {last.seq}, which was seen, is gone or another one: the log was cut"
            return _report([f"{problem} or made anew; its head is {now}"], last, reader.head)
        for page in reader.pages(last.id):
            identifier, newest = page[-1]
            seq, digest = newest.get(SEQ, ""), newest.get(HASH, "")
            faults = verify_chain(page, f"{seq}:{digest}", self._keys, last.head)
            if faults:
                texts = [f"{fault.location}: {fault.problem}" for fault in faults]
                return _report(texts, last, reader.head)
            last = Anchor(int(seq), digest, identifier)
            self._anchors.append(last)
        wrong = [] if reader.head == last.head else [f"head is {now}, last record is {last.seq}"]
        return _report(wrong, last, reader.head)


def _report(faults: list[str], last: Anchor, head: str) -> list[str]:
    seq = head.partition(":")[0]
    VALID.set(0 if faults else 1)
    ANCHORED.set(last.seq)
    UNANCHORED.set(max(int(seq) - last.seq, 0) if seq.isdecimal() else 0)
    LOOKED.set(time.time())
    return faults


def follow(witness: AuditWitness, stopping: Event, interval_s: float) -> None:
    """Look periodically until told to stop; each new fault is logged once.

    Args:
        witness: The witness.
        stopping: Set to end.
        interval_s: Seconds between two looks.
    """
    known: list[str] = []
    while not stopping.is_set():
        try:
            faults = witness.look()
        except redis.RedisError as err:
            _LOG.warning("audit log not read", reason=str(err)[:200])
        else:
            if faults and faults != known:
                _LOG.error("audit log is not valid", faults=faults[:10], count=len(faults))
            known = faults
        stopping.wait(interval_s)


def verify_once(client: Any, stream: str, anchors: AnchorFile, keys: Sequence[bytes]) -> int:
    """Verify the whole log and print its faults; return 0 if it is valid, 1 if not."""
    report = verify_log(client, stream, keys, "", anchors.read())
    for fault in report.faults:
        sys.stdout.write(f"{stream} {fault.location}: {fault.problem}\n")
    word = f"{len(report.faults)} faults" if report.faults else "valid"
    sys.stdout.write(
        f"{stream}: {report.records} records, {report.unanchored} not anchored yet: {word}\n"
    )
    return 1 if report.faults else 0


def list_newest(client: Any, stream: str, count: int, *wanted: str) -> int:
    """Print the newest records that have given fields, ``field=value``; return 0."""
    fields = dict(one.split("=", 1) for one in wanted)
    sys.stdout.write(json.dumps(find_newest(client, stream, count, fields)) + "\n")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the witness, verify once, or list records; return the exit status."""
    settings = SafetySettings()
    logs.setup(settings.log_level)
    path = settings.audit_anchor
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
    )
    try:
        if arguments[:1] == ["list"]:
            return list_newest(client, settings.audit_stream, int(arguments[1]), *arguments[2:])
        keys = read_keys(settings.audit_key_file) if settings.audit_key_file else ()
        anchors = AnchorFile(path, keys)
        if list(arguments) == ["verify"]:
            return verify_once(client, settings.audit_stream, anchors, keys)
        witness = AuditWitness(client, settings.audit_stream, anchors, keys)
    except (OSError, ValueError, redis.RedisError) as err:
        _LOG.error("cannot witness the audit log", reason=str(err))
        return 2
    stopping = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    page = MetricsPage(settings.pages_address) if settings.pages_address else None
    follow(witness, stopping, settings.audit_interval_s)
    if page:
        page.close()
    client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

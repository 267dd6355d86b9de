"""Attacks on a running fleet: each occupies what a server lends to its clients."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from bemfleet.router.v1 import router_pb2, router_pb2_grpc
from bemfleet.safety.v1 import safety_pb2, safety_pb2_grpc

LONG_TEXT = "212-555-0142 " * 10_082
STREAMS, STREAM_TOKENS, CONNECTIONS = 50, 1500, 250
HEADER_BYTES, BODY_BYTES = 26 * 10**6, 50 * 10**6
_CHUNK = b"a" * 65536


@dataclass(frozen=True)
class Fleet:
    """Addresses of a running fleet.

    Attributes:
        gateway: Host and port of the gateway.
        sidecar: ``host:port`` of the router's sidecar.
        model: Model that requests name.
        key: API key of the attacker; empty for none.
    """

    gateway: tuple[str, int]
    sidecar: str
    model: str
    key: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of the attacker's gRPC calls."""
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()


Attack = Callable[[Fleet, threading.Event], None]


def score_long_text(fleet: Fleet, stop: threading.Event) -> None:
    """Score one text of the greatest length, again and again."""
    _score(fleet, stop, 1)


def score_long_texts(fleet: Fleet, stop: threading.Event) -> None:
    """Score 16 texts of the greatest length at once, again and again."""
    _score(fleet, stop, 16)


def _score(fleet: Fleet, stop: threading.Event, parallel: int) -> None:
    with grpc.insecure_channel(fleet.sidecar) as channel:
        score = safety_pb2_grpc.SafetyServiceStub(channel).Score
        waiting: list[Any] = []
        number = 0
        while not stop.wait(0.05):
            waiting = [one for one in waiting if not one.done()]
            while len(waiting) < parallel:
                number += 1
                text = f"{number} {LONG_TEXT}"[:131_072]
                request = safety_pb2.ScoreRequest(text=text)
                waiting.append(score.future(request, metadata=fleet.metadata, timeout=60))
        for one in waiting:
            one.cancel()


def read_no_http_stream(fleet: Fleet, stop: threading.Event) -> None:
    """Open 50 HTTP streams of 1,500 tokens and read nothing."""
    body = {"model": fleet.model, "prompt": "Once upon a time", "stream": True}
    payload = json.dumps({**body, "max_tokens": STREAM_TOKENS}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: f\r\nContent-Type: application/json\r\n"
        f"{_authorization(fleet)}Content-Length: {len(payload)}\r\n\r\n"
    )
    with _connections(fleet, STREAMS, head.encode() + payload):
        stop.wait()


def read_no_grpc_stream(fleet: Fleet, stop: threading.Event) -> None:
    """Open 50 gRPC streams of 1,500 tokens and read nothing."""
    with grpc.insecure_channel(fleet.sidecar) as channel:
        generate = router_pb2_grpc.RouterServiceStub(channel).Generate
        request = router_pb2.GenerateRequest(
            model=fleet.model, prompt="Once upon a time", max_tokens=STREAM_TOKENS
        )
        calls = [generate(request, metadata=fleet.metadata) for _ in range(STREAMS)]
        stop.wait()
        for call in calls:
            call.cancel()


def send_huge_headers(fleet: Fleet, stop: threading.Event) -> None:
    """Send a header line of 26 MB, again and again."""
    _send_for_ever(fleet, stop, b"GET /v1/models HTTP/1.1\r\nHost: f\r\nX-Large: ", HEADER_BYTES)


def send_huge_bodies(fleet: Fleet, stop: threading.Event) -> None:
    """Send a body of 50 MB, with and without its length announced, again and again."""
    start = b"POST /v1/completions HTTP/1.1\r\nHost: f\r\nContent-Type: application/json\r\n"
    while not stop.is_set():
        length = f"Content-Length: {BODY_BYTES}\r\n\r\n".encode()
        _send_once(fleet, stop, start + length, BODY_BYTES)
        chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % BODY_BYTES
        _send_once(fleet, stop, start + chunked, BODY_BYTES)


def trickle_headers(fleet: Fleet, stop: threading.Event) -> None:
    """Keep 250 connections open that send one byte of a header a second."""
    while not stop.is_set():
        with _connections(fleet, CONNECTIONS, b"GET / HTTP/1.1\r\nX-Slow: ") as opened:
            alive = list(opened)
            while alive and not stop.wait(1.0):
                alive = [one for one in alive if _still_open(one)]


def hold_grpc_connections(fleet: Fleet, stop: threading.Event) -> None:
    """Hold 250 connections to the sidecar open without a call."""
    host, _, port = fleet.sidecar.rpartition(":")
    other = Fleet((host, int(port)), fleet.sidecar, fleet.model)
    # The client's preface and an empty SETTINGS frame: a complete handshake.
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with _connections(other, CONNECTIONS, hello):
        stop.wait()


def keep_processors_busy(fleet: Fleet, stop: threading.Event) -> None:  # noqa: ARG001 - one signature
    """Run two processes that compute without pause."""
    code = "while True: sum(range(100000))"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        stop.wait()
    finally:
        for process in busy:
            process.kill()
            process.wait()


ATTACKS: dict[str, Attack] = {
    "one Score of 131,072 characters": score_long_text,
    "16 Scores of 131,072 characters": score_long_texts,
    "50 unread HTTP streams": read_no_http_stream,
    "50 unread gRPC streams": read_no_grpc_stream,
    "header line of 26 MB": send_huge_headers,
    "body of 50 MB": send_huge_bodies,
    "250 slow connections": trickle_headers,
    "250 idle gRPC connections": hold_grpc_connections,
}
BUSY = "two busy processes"


def _authorization(fleet: Fleet) -> str:
    return f"Authorization: Bearer {fleet.key}\r\n" if fleet.key else ""


@contextmanager
def _connections(fleet: Fleet, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []

    def connect(_: int) -> None:
        with suppress(OSError):  # refused: the limit that is measured
            one = socket.create_connection(fleet.gateway, timeout=10)
            opened.append(one)
            one.sendall(first)

    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(connect, range(count)))
        yield opened
    finally:
        for one in opened:
            one.close()


def _still_open(one: socket.socket) -> bool:
    """Send one byte; return False once the server has closed the connection."""
    try:
        if select.select([one], [], [], 0)[0] and not one.recv(4096):
            return False
        one.sendall(b"a")
    except OSError:
        return False
    return True


def _send_for_ever(fleet: Fleet, stop: threading.Event, start: bytes, size: int) -> None:
    while not stop.is_set():
        _send_once(fleet, stop, start, size)


def _send_once(fleet: Fleet, stop: threading.Event, start: bytes, size: int) -> None:
    """Send as much as the server takes."""
    try:
        with socket.create_connection(fleet.gateway, timeout=10) as one:
            one.sendall(start)
            for _ in range(size // len(_CHUNK)):
                if stop.is_set():
                    return
                one.sendall(_CHUNK)
    except OSError:
        stop.wait(0.05)  # closed by the server: the next one follows


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))

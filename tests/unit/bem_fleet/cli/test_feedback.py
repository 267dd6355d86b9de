"""``fleetctl feedback`` against a gateway and a Redis on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.cli import main
from bem_fleet.feedback.dead_letters import DeadLetters
from bem_fleet.feedback.redis_keys import GROUP, STREAM
from fleet.redis_pipe import RedisPipe
from fleet.testing import RedisServer, free_port

from tests.support.canned_fleet import canned_fleet


class _Gateway(BaseHTTPRequestHandler):
    received: list[tuple[dict[str, str], dict[str, Any]]] = []  # noqa: RUF012 - one per test

    def do_POST(self) -> None:
        """Keep what is sent; refuse feedback without content."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.received.append(({key.lower(): one for key, one in self.headers.items()}, body))
        good = len(body) > 1
        answer = {"id": "1-0", "kept": ["rating"]} if good else {"error": {"message": "give one"}}
        self.send_response(201 if good else 422)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's
        """Write nothing."""


@pytest.fixture
def gateway() -> Iterator[str]:
    """Address of a gateway."""
    _Gateway.received.clear()
    server = HTTPServer(("127.0.0.1", 0), _Gateway)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command; returns its exit code, standard output and standard error."""
    code = main(["feedback", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.slow
def test_feedback_is_sent_with_the_callers_key(
    gateway: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what is given is in the body; the idempotency key is a header."""
    (tmp_path / "key").write_text("bem_u\n")
    options = ("--rating", "up", "--tag", "a", "--key", "k1", "--key-file", str(tmp_path / "key"))
    code, shown, _ = run(capsys, "send", "chat-1", *options, "--address", gateway)
    (headers, body), *_ = _Gateway.received

    assert (code, shown) == (0, "entry 1-0; kept: rating\n")
    assert body == {"completion_id": "chat-1", "rating": "up", "tags": ["a"]}
    assert (headers["authorization"], headers["idempotency-key"]) == ("Bearer bem_u", "k1")


@pytest.mark.slow
def test_refused_feedback_is_exit_code_1(gateway: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The reason is the gateway's; a gateway that is not there is exit code 2."""
    refused = run(capsys, "send", "chat-1", "--address", gateway)
    absent = run(capsys, "send", "chat-1", "--address", f"127.0.0.1:{free_port()}")

    assert refused == (1, "", "422: give one\n")
    assert absent[0] == 2


def test_status_counts_what_became_of_feedback(capsys: pytest.CaptureFixture[str]) -> None:
    """By outcome, and what each family lacks."""
    with canned_fleet() as (_, port):
        code, shown, _ = run(capsys, "status", "--address", f"127.0.0.1:{port}")

    assert code == 0
    assert "learned  7" in shown
    assert "dates   3       2 more people" in shown


@pytest.mark.slow
async def test_dead_letters_are_listed_and_decided(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its reason; what is discarded is gone, and what is unknown is named."""
    import asyncio

    url = redis_server.url
    pipe, letters = RedisPipe(url, 5, "test"), DeadLetters(url, 10)
    await pipe.call("XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM")
    entry = (await pipe.call("XADD", STREAM, "*", "v", 1)).decode()
    await pipe.call("XREADGROUP", "GROUP", GROUP, "c", "STREAMS", STREAM, ">")
    await letters.bury(entry, b"{}", "no user", 3)
    (letter,) = await letters.page()
    letters.close()
    pipe.close()

    def commands() -> list[tuple[int, str, str]]:
        options = ("--redis-url", url)
        words = (("dead", "--json"), ("requeue", letter.identifier), ("discard", letter.identifier))
        return [run(capsys, *one, *options) for one in (*words, ("dead",))]

    listed, requeued, discarded, empty = await asyncio.to_thread(commands)

    assert json.loads(listed[1])[0]["reason"] == "no user"
    assert "body" not in json.loads(listed[1])[0]
    assert requeued[0] == 1  # nobody could have it forgotten: its body was not kept
    assert "not kept" in requeued[2]
    assert discarded[0] == 0
    assert len(empty[1].splitlines()) == 1

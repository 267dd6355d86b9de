"""Command on the dead letters that runs in a pod, on a real Redis."""

from __future__ import annotations

import json

import pytest
from bem_fleet.feedback.dead_letter_command import decide, main
from bem_fleet.feedback.dead_letters import DeadLetters
from bem_fleet.feedback.redis_keys import GROUP, STREAM
from fleet.redis_pipe import RedisPipe
from fleet.testing import RedisServer, free_port


@pytest.mark.slow
async def test_letters_are_printed_without_texts_and_removed(redis_server: RedisServer) -> None:
    """A letter whose body was not kept is no entry again; what is gone is named."""
    pipe, letters = RedisPipe(redis_server.url, 5, "test"), DeadLetters(redis_server.url, 10)
    await pipe.call("XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM")
    entry = (await pipe.call("XADD", STREAM, "*", "v", 1)).decode()
    await pipe.call("XREADGROUP", "GROUP", GROUP, "c", "STREAMS", STREAM, ">")
    await letters.bury(entry, b"{}", "no user", 3)
    letters.close()
    pipe.close()
    (one,) = (await decide(redis_server.url, "list", "10"))["letters"]
    removed = await decide(redis_server.url, "discard", one["identifier"])
    empty = await decide(redis_server.url, "list", "10")

    assert set(one) == {"identifier", "entry", "reason", "deliveries", "size", "kept"}
    assert (one["reason"], one["kept"]) == ("no user", False)
    assert removed == {"id": one["identifier"]}
    assert empty == {"letters": []}


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the commands that there are."""
    assert main(["drop", "1-0"]) == 1
    assert "known: list, requeue, discard" in capsys.readouterr().out


@pytest.mark.slow
def test_refusals_are_json_and_exit_code_1(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The login of the environment is used, as the mission's own; other settings are ignored."""
    monkeypatch.setenv("BEM_ONLINE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("BEM_ONLINE_STEPS", "6")
    unknown = main(["requeue", "1-0"]), json.loads(capsys.readouterr().out)
    monkeypatch.setenv("BEM_ONLINE_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    unreachable = main(["list", "1"]), json.loads(capsys.readouterr().out)

    assert unknown[0] == unreachable[0] == 1
    assert "dead letter 1-0" in unknown[1]["error"]
    assert unreachable[1]["error"]

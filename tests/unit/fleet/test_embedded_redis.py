"""The packaged Redis."""

import os
from pathlib import Path

import pytest
from fleet import embedded_redis


def test_command_is_durable_and_on_loopback(tmp_path: Path) -> None:
    """Redis listens on loopback only and writes to disk before it answers."""
    command = embedded_redis.redis_command(7000, tmp_path)

    assert os.access(command[0], os.X_OK)
    assert command[command.index("--bind") + 1] == "127.0.0.1"
    assert command[command.index("--appendfsync") + 1] == "always"


def test_missing_binary_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without package and without a system Redis the error says what to run."""
    monkeypatch.setattr(embedded_redis, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(FileNotFoundError, match="make setup"):
        embedded_redis.redis_binary()

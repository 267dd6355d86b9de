"""Fixtures and plugins of all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet.testing import RedisServer

pytest_plugins = [
    "pytester",
    "tests.support.requirements",
    "tests.support.floors",
    "tests.support.stages",
    "tests.support.slow",
]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server process with the fleet's durability settings."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()

"""Test fixtures."""

import socket

import redis
from fleet.testing import RedisServer, free_port


def test_free_port_can_be_bound() -> None:
    """The port is free when it is returned."""
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_redis_keeps_its_data_over_a_kill(redis_server: RedisServer) -> None:
    """A restarted server has what was acknowledged before."""
    with redis.from_url(redis_server.url) as client:
        client.set("key", "value")
    redis_server.kill()
    redis_server.start()
    with redis.from_url(redis_server.url) as client:
        assert client.get("key") == b"value"

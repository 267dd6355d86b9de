"""Redis behind TLS: the packaged Redis has no TLS, so a proxy terminates it before a real one."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis
from fleet.errors import UnavailableError
from fleet.redis_pipe import RedisPipe
from fleet.streams import StreamWriter
from fleet.testing import RedisServer


def issue(folder: Path) -> Path:
    """Write a self-signed certificate for localhost and return the certificate file."""
    folder.mkdir()
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "1"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    command = ["openssl", "req", "-x509", "-nodes", *names, *key, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "tls.crt"


@asynccontextmanager
async def tls_proxy(certificate: Path, port: int) -> AsyncIterator[int]:
    """Terminate TLS in front of a local port; yield the TLS port."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def ping_pipe(url: str) -> object:
    """Ping through the pipelined connection of the audit path."""
    pipe = RedisPipe(url, 5.0, "audit")
    try:
        return await pipe.call("PING")
    finally:
        pipe.close()


async def ping_stream(url: str) -> object:
    """Ping through the stream writer."""
    writer = StreamWriter(url, "bem:test")
    try:
        await writer.ping()
    finally:
        await writer.close()
    return b"PONG"


@pytest.fixture
def secured(redis_server: RedisServer) -> RedisServer:
    """A Redis with a user, a password and a default user that may do nothing."""
    with redis.from_url(redis_server.url) as client:
        client.acl_setuser(
            "fleet", enabled=True, passwords=["+s@fe"], categories=["+@all"], keys=["*"]
        )
        client.acl_setuser("default", enabled=False)
    return redis_server


@pytest.mark.parametrize("ping", [ping_pipe, ping_stream])
async def test_only_the_named_ca_is_trusted(
    secured: RedisServer, tmp_path: Path, ping: Callable[[str], Awaitable[object]]
) -> None:
    """CA file, user, password and database of the URL are used; another CA refuses."""
    certificate, other = issue(tmp_path / "server"), issue(tmp_path / "other")
    async with tls_proxy(certificate, secured.port) as port:
        url = f"rediss://fleet:s%40fe@localhost:{port}/2?ssl_ca_certs="
        assert await ping(f"{url}{certificate}") == b"PONG"
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            await ping(f"{url}{other}")
        assert await ping(f"{url}{other}&ssl_cert_reqs=none") == b"PONG"


async def test_host_name_of_the_certificate_is_checked(
    secured: RedisServer, tmp_path: Path
) -> None:
    """The certificate is for localhost; the address 127.0.0.1 is refused unless told otherwise."""
    certificate = issue(tmp_path / "server")
    async with tls_proxy(certificate, secured.port) as port:
        url = f"rediss://fleet:s%40fe@127.0.0.1:{port}?ssl_ca_certs={certificate}"
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            await ping_pipe(url)
        assert await ping_pipe(f"{url}&ssl_check_hostname=false") == b"PONG"

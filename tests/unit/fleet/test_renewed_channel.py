"""Channel that is opened again with the newest certificate, with real channels to no server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from fleet.certificates import Certificate, CertificateFolder, channel_credentials
from fleet.renewed_channel import RenewedChannel
from fleet.testing import free_port
from grpc import aio

from tests.support.certificates import TestAuthority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    """An authority."""
    return TestAuthority(tmp_path_factory.mktemp("authority") / "fleet")


class Opened:
    """A renewed channel and the channels that it opened."""

    def __init__(self, folder: Path) -> None:
        self.channels: list[aio.Channel] = []
        self._target = f"127.0.0.1:{free_port()}"
        self.own = RenewedChannel(CertificateFolder(folder, interval_s=0), self._connect, 0.1)

    def _connect(self, certificate: Certificate) -> aio.Channel:
        made = aio.secure_channel(self._target, channel_credentials(certificate))
        self.channels.append(made)
        return made


@pytest.fixture
async def opened(authority: TestAuthority, tmp_path: Path) -> AsyncIterator[Opened]:
    """A channel whose certificate lies in ``tmp_path/pod``."""
    made = Opened(authority.issue(tmp_path / "pod"))
    async with made.own:
        yield made


async def test_one_channel_serves_until_the_certificate_changes(
    opened: Opened, authority: TestAuthority, tmp_path: Path
) -> None:
    """Each renewal opens one channel, whatever is called on it."""
    assert opened.own.newest is opened.own.newest is opened.channels[0]
    authority.issue(tmp_path / "pod")
    assert opened.own.get_state() is grpc.ChannelConnectivity.IDLE

    assert opened.own.newest is opened.channels[1]
    assert len(opened.channels) == 2


async def test_watcher_of_the_state_hears_of_a_renewal(
    opened: Opened, authority: TestAuthority, tmp_path: Path
) -> None:
    """Who watches the connection is woken, as by a lost connection."""
    watching = asyncio.create_task(opened.own.wait_for_state_change(grpc.ChannelConnectivity.IDLE))
    await asyncio.sleep(0)
    assert not watching.done()
    authority.issue(tmp_path / "pod")
    assert opened.own.newest

    await asyncio.wait_for(watching, 10)


async def test_closed_channel_opens_no_other(
    opened: Opened, authority: TestAuthority, tmp_path: Path
) -> None:
    """After the end a renewal is of no interest, and calls say that the channel is closed."""
    call = opened.own.unary_unary("/sample.v1.S/Ask")
    await opened.own.close()
    authority.issue(tmp_path / "pod")

    with pytest.raises(aio.UsageError):
        await call(b"")
    assert len(opened.channels) == 1

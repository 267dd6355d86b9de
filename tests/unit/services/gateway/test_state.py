"""Lifespan of the gateway's state."""

import asyncio

from bem_fleet.services.gateway.settings import GatewaySettings
from bem_fleet.services.gateway.state import open_state
from fleet.access import Access
from fleet.access.own_key import OwnKey


async def test_background_tasks_end_with_the_state() -> None:
    """Nothing that the state started runs on after it is closed."""
    before = len(asyncio.all_tasks())
    settings = GatewaySettings(missions={"router": "unix:/no.sock", "b": "unix:/no-b.sock"})
    access, own_key = Access(None, settings.address), OwnKey(None)
    async with open_state(settings, access, own_key) as state:
        during = len(asyncio.all_tasks())
        assert state.openai_mission is state.missions["router"]

    assert during > before
    assert len(asyncio.all_tasks()) == before

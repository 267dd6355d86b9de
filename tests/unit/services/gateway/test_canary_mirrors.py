"""Mirrored calls: how many run, and when none does."""

import asyncio

from bem_fleet.services.gateway.canary_mirrors import MAX_MIRRORS, CanaryMirrors


async def test_mirrors_are_limited() -> None:
    """Beyond the limit no further one may run, and closing cancels all."""
    mirrors = CanaryMirrors()
    while mirrors.may_run():
        mirrors.run(asyncio.Event().wait())  # type: ignore[arg-type]
    running = len(mirrors.running)
    await mirrors.close()

    assert running == MAX_MIRRORS
    assert not mirrors.running


async def test_mirrors_pause_after_a_refusal() -> None:
    """For the longest delay that a refusal has named."""
    now = [0.0]
    mirrors = CanaryMirrors(lambda: now[0])
    mirrors.hold(3.0)
    mirrors.hold(1.0)
    allowed = []
    for now[0] in (0.5, 2.9, 3.0):
        allowed.append(mirrors.may_run())

    assert allowed == [False, False, True]

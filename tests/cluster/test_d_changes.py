"""`helm upgrade` replaces pods under load; nothing fails and nothing is lost."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.kubernetes_cli import Release
from tests.cluster.talking import answer, ask_on, give_feedback, kept

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
SECRET = ("get", "secret", "bem-fleet-redis", "-o", "jsonpath={.data}")


def test_upgrade_keeps_data_and_answers(release: Release, adapters: str) -> None:
    """While an upgrade replaces gateway and router no request fails, and no record is lost."""
    record = give_feedback(release)
    secret = release.kubectl(*SECRET)
    changed = [
        "bem_fleet.services.gateway.settings.MAX_BODY_BYTES=2097152",
        "bem_fleet.services.gateway.replicas=2",
        "bem_fleet.services.router.settings.WEIGHTS=int4",
        f"bem_fleet.services.router.model.adaptersClaim={adapters}",
    ]
    options = [part for one in changed for part in ("--set", one)]
    with ThreadPoolExecutor(1) as beside:
        counting = beside.submit(ask_on, release, 60)
        release.helm("upgrade", "charts", *options, "--wait", "--timeout", "10m")
        counted = counting.result()
    release.rolled_out()

    assert counted["asked"] > 50
    assert counted["failed"] == []
    assert release.kubectl(*SECRET) == secret
    assert kept(release, record)
    assert "Paris" in answer(release)
    assert "native" in kernels(release)


def kernels(release: Release) -> str:
    """Return what the router's log says of its kernels; skip where the processor lacks them."""
    said = release.kubectl("logs", "deploy/bem-fleet-router", "-c", "router")
    found = next(
        str(entry["kernels"])
        for entry in map(json.loads, filter(lambda line: line.startswith("{"), said.splitlines()))
        if entry["event"] == "weights"
    )
    if "the processor lacks" in found:
        pytest.skip(found)
    return found

"""Upgrade from an earlier commit's chart and images to this tree, and back, under traffic."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.cluster.client import (
    ask_session,
    chat,
    complete,
    give_feedback,
    is_stored,
    read_into_memory,
    send_continuously,
)
from tests.cluster.fleetctl import fleetctl
from tests.cluster.kubernetes_cli import ROOT, Release, run, wait_for
from tests.versions.conftest import EARLIER_TAG

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
TRAFFIC_S = 150
UNLOADED = "general"


def runs_only(release: Release, tag: str) -> bool:
    """Return whether all containers are of images with this tag."""
    pods = release.objects("pods")
    found = [one["image"] for pod in pods for one in pod["spec"]["containers"]]
    return all(image.endswith(f":{tag}") for image in found)


def missions(release: Release) -> dict[str, Any]:
    """Return the specs of all Missions."""
    items = json.loads(release.kubectl("get", "missions", "-o", "json"))["items"]
    return {one["metadata"]["name"]: one["spec"] for one in items}


def adapters_of(release: Release) -> list[str]:
    """Return the names of the adapters that the router serves."""
    return sorted(one["name"] for one in fleetctl(release, "adapters", "list")[1]["adapters"])


def change_under_traffic(release: Release, change: Callable[[], object]) -> None:
    """Change the version while chat requests are sent; none of them fails."""
    with ThreadPoolExecutor(1) as executor:
        traffic = executor.submit(send_continuously, release, TRAFFIC_S, chat(max_tokens=4))
        change()
        counts = traffic.result()
    release.wait_for_rollout()

    assert counts["failed"] == []
    assert counts["sent"] > TRAFFIC_S / 5


def test_data_and_requests_survive_an_upgrade_and_its_rollback(release: Release) -> None:
    """Feedback, memory, versions, Missions and an unloaded adapter are the same after both."""
    record, session = give_feedback(release), "kept"
    read_into_memory(release, session)
    assert fleetctl(release, "adapters", "unload", UNLOADED)[0] == 0
    release.kubectl("scale", "mission", "sep", "--replicas=2")

    def state() -> dict[str, Any]:
        return {
            "memory": ask_session(release, session)["text"],
            "versions": fleetctl(release, "versions", "list")[1],
            "adapters": adapters_of(release),
            "missions": missions(release),
        }

    before = state()
    assert before["missions"]["sep"]["replicas"] == 2
    assert UNLOADED not in before["adapters"]

    def upgrade() -> None:
        run("kubectl", "apply", "--server-side", "--force-conflicts", "-f", ROOT / "charts/crds")
        release.helm("upgrade", "charts", "--wait", "--timeout", "15m")

    def roll_back() -> None:
        release.helm("rollback", "1", "--wait", "--timeout", "15m")

    assert runs_only(release, EARLIER_TAG)
    for change, tag in ((upgrade, "0.1.0"), (roll_back, EARLIER_TAG)):
        change_under_traffic(release, change)
        wait_for(partial(runs_only, release, tag), f"images {tag}", limit_s=120)
        assert state() == before
        assert is_stored(release, record)
        assert "Paris" in complete(release)

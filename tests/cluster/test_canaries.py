"""Canaries of adapters and of pods, started by `kubectl patch` under traffic."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.canary_adapters import CAPITALS, capital_prompt
from tests.cluster.client import chat, complete, send_continuously
from tests.cluster.fleetctl import fleetctl
from tests.cluster.kubernetes_cli import CommandError, Release, run, wait_for

pytestmark = [pytest.mark.stage("canaries"), pytest.mark.e2e, pytest.mark.timeout(1500)]
ADAPTER = "passage-qa"
STEPS = [{"weight": 10, "seconds": 2}, {"weight": 50, "seconds": 2}]
# Both tracks and the client share two cores, so latencies say little here.
WIDE_MARGINS = {
    "errorMargin": 0.3,
    "violationMargin": 0.3,
    "latencyMargin": 3.5,
    "qualityMargin": 0.5,
    "minAnswered": 0.5,
    "tailRatio": 10.0,
    "p95Margin": 0.3,
    "p99Margin": 0.3,
}
PROBES = [
    {"prompt": capital_prompt(country, city), "answers": [f'{{"answer": "{city}"}}', city]}
    for country, city in CAPITALS
]


class Traffic:
    """Requests that are sent in the background.

    Attributes:
        sent: Number of requests so far.
        failed: Errors so far.
    """

    def __init__(self) -> None:
        self.sent, self.failed = 0, list[str]()

    def run(self, release: Release, body: dict[str, Any], stop: threading.Event) -> None:
        """Send requests in turns of 10 seconds until ``stop`` is set."""
        try:
            while not stop.is_set():
                # On two cores without the project's kernels more would leave nothing to the probes.
                counts = send_continuously(release, 10, body, concurrency=2, pause_s=1.5)
                self.sent += counts["sent"]
                self.failed += counts["failed"]
        except CommandError as err:  # an error that ends the thread would be lost
            self.failed.append(f"traffic ended: {err}")


@contextmanager
def background_traffic(release: Release, model: str) -> Iterator[Traffic]:
    """Send requests for ``model`` until the block ends."""
    traffic, stop = Traffic(), threading.Event()
    body = chat(model, capital_prompt(*CAPITALS[0]), max_tokens=4)
    thread = threading.Thread(target=traffic.run, args=(release, body, stop))
    thread.start()
    try:
        yield traffic
    finally:
        stop.set()
        thread.join()


def run_canary(release: Release, patch: dict[str, Any], phase: str) -> dict[str, Any]:
    """Start a canary and return its final status; a final phase other than ``phase`` fails."""

    def status() -> dict[str, Any]:
        current: dict[str, Any] = release.mission("router")["status"].get("canary", {})
        return current

    before = status().get("id")
    release.patch_mission("router", patch)

    def final_status() -> dict[str, Any] | None:
        canary = status()
        if canary.get("id") == before:
            return None
        final = ("Promoted", "RolledBack", "Inconclusive")
        if canary.get("phase") in final and canary["phase"] != phase:
            raise AssertionError(f"{canary['phase']}: {canary}")
        return canary if canary.get("phase") == phase else None

    return wait_for(final_status, phase, limit_s=1200, interval_s=3)


def canary(**spec: Any) -> dict[str, Any]:
    """Return the patch that starts a canary; null removes a field of the canary before."""
    fields = {"model": None, "image": None, "env": None, "shadow": 100, "steps": STEPS, **spec}
    return {
        "spec": {
            "model": ADAPTER,
            "canary": {"analysis": {"probes": None, **WIDE_MARGINS}, **fields},
        }
    }


def test_bad_adapter_rolls_itself_back(release: Release, adapters: str) -> None:
    """An adapter of lower quality is rolled back by the quality gate; no request fails."""
    assert adapters
    with background_traffic(release, ADAPTER) as traffic:
        # It says the wrong city at length: a narrow margin needs a third of the probes.
        terms = {**WIDE_MARGINS, "qualityMargin": 0.1}
        worse = canary(model="passage-qa-bad", analysis={**terms, "probes": PROBES})
        status = run_canary(release, worse, "RolledBack")

    assert "quality" in status["reason"]
    assert traffic.sent > 0
    assert traffic.failed == []


def test_good_adapter_is_promoted(release: Release, adapters: str) -> None:
    """An equally good adapter is promoted without a new pod; no request fails."""
    assert adapters
    with background_traffic(release, ADAPTER) as traffic:
        equal = canary(model="passage-qa-v2", analysis={**WIDE_MARGINS, "probes": PROBES})
        status = run_canary(release, equal, "Promoted")

    assert status["gate"]["verdict"] == "promote"
    assert traffic.failed == []
    output = run("kubectl", "bem", "canary", "status", "router", "--namespace", release.namespace)
    assert "passage-qa-v2" in output


def image_of(release: Release) -> str:
    """Return the image of the router's pod."""
    containers = release.pod("router")["spec"]["containers"]
    return str(next(c["image"] for c in containers if c["name"] == "router"))


def test_bad_pod_rolls_itself_back(release: Release) -> None:
    """A canary Deployment that refuses most requests is rolled back and deleted."""
    small = {"BEM_ROUTER_CONTEXT_TOKENS": "16"}
    with background_traffic(release, "smollm2-135m-instruct") as traffic:
        status = run_canary(release, canary(image=image_of(release), env=small), "RolledBack")
    deleted = ("wait", "--for=delete", "deployment/bem-fleet-router-canary", "--timeout=60s")
    release.kubectl(*deleted)

    assert "errors" in status["reason"]
    assert traffic.failed == []


def test_good_pod_is_promoted_and_undone(release: Release) -> None:
    """A good pod becomes stable without a failed request; `kubectl rollout undo` reverts it."""
    with background_traffic(release, "smollm2-135m-instruct") as traffic:
        # A merge patch keeps the fields that it does not name.
        better = {"BEM_ROUTER_ROWS": "8", "BEM_ROUTER_CONTEXT_TOKENS": None}
        run_canary(release, canary(image=image_of(release), env=better), "Promoted")
    promoted = release.pod("router")
    release.kubectl("rollout", "undo", "deployment/bem-fleet-router")
    release.wait_for_rollout()

    def rows(pod: dict[str, Any]) -> list[str]:
        return [
            e["value"]
            for c in pod["spec"]["containers"]
            for e in c["env"]
            if e["name"] == "BEM_ROUTER_ROWS"
        ]

    assert rows(promoted) == ["8"]
    assert traffic.failed == []
    assert rows(release.pod("router")) == []
    assert "Paris" in complete(release)


def test_fleetctl_starts_and_steers_a_canary(release: Release) -> None:
    """It is held, continued and rolled back from outside; what is served stays."""
    mission = ("router",)
    started = fleetctl(
        release, "canary", "start", *mission, "--model", "general", "--step", "10:600"
    )
    assert started[0] == 0, started[2]

    def phase_of(*wanted: str) -> dict[str, Any] | None:
        _, found, _ = fleetctl(release, "canary", "status", *mission)
        return found if found and found.get("phase") in wanted else None

    wait_for(lambda: phase_of("Shadow", "Canary"), "a running canary", interval_s=2)
    for command in ("pause", "resume", "abort"):
        code, _, errors = fleetctl(release, "canary", command, *mission)
        assert code == 0, f"{command}: {errors}"
    wait_for(lambda: phase_of("RolledBack"), "the canary's end", interval_s=2)

    assert fleetctl(release, "canary", "explain", *mission)[0] == 0
    assert fleetctl(release, "canary", "abort", *mission)[0] == 1
    assert "Paris" in complete(release)

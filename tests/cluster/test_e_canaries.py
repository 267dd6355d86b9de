"""Canaries on real pods and the real model, started by `kubectl patch` under traffic."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.adapters import CAPITALS, asked_about
from tests.cluster.kubernetes_cli import CommandError, Release, run, until
from tests.cluster.talking import answer, ask_on, chat

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
ADAPTER = "passage-qa"
STEPS = [{"weight": 10, "seconds": 2}, {"weight": 50, "seconds": 2}]
# One machine's two cores serve both sides and whoever asks, so times say little here.
EASY = {"errorMargin": 0.3, "violationMargin": 0.3, "latencyMargin": 3.5, "qualityMargin": 0.5}
PROBES = [
    {"prompt": asked_about(country, city), "answers": [f'{{"answer": "{city}"}}', city]}
    for country, city in CAPITALS
]


class Traffic:
    """Requests that go on until the block ends.

    Attributes:
        asked: Requests so far.
        failed: Why some failed.
    """

    def __init__(self) -> None:
        self.asked, self.failed = 0, list[str]()

    def run(self, release: Release, body: dict[str, Any], stop: threading.Event) -> None:
        """Ask in short turns until told to stop."""
        try:
            while not stop.is_set():
                counted = ask_on(release, 10, body, at_once=2, pause_s=0.2)
                self.asked += counted["asked"]
                self.failed += counted["failed"]
        except CommandError as err:  # a thread's own end would be silent
            self.failed.append(f"asking ended: {err}")


@contextmanager
def traffic(release: Release, model: str) -> Iterator[Traffic]:
    """Ask for ``model`` again and again meanwhile."""
    counted, stop = Traffic(), threading.Event()
    body = chat(model, asked_about(*CAPITALS[0]), max_tokens=4)
    asking = threading.Thread(target=counted.run, args=(release, body, stop))
    asking.start()
    try:
        yield counted
    finally:
        stop.set()
        asking.join()


def ended(release: Release, patch: dict[str, Any], phase: str) -> dict[str, Any]:
    """Start a canary, wait for its end and return its status; another end fails at once."""

    def status() -> dict[str, Any]:
        known: dict[str, Any] = release.mission("router")["status"].get("canary", {})
        return known

    before = status().get("id")
    release.patch_mission("router", patch)

    def look() -> dict[str, Any] | None:
        canary = status()
        if canary.get("id") == before:
            return None
        final = ("Promoted", "RolledBack", "Inconclusive")
        if canary.get("phase") in final and canary["phase"] != phase:
            raise AssertionError(f"{canary['phase']}: {canary}")
        return canary if canary.get("phase") == phase else None

    return until(look, phase, limit_s=600)


def canary(**spec: Any) -> dict[str, Any]:
    """Return the patch that starts a canary; what it leaves out is taken from the one before."""
    whole = {"model": None, "image": None, "env": None, "shadow": 100, "steps": STEPS, **spec}
    return {"spec": {"model": ADAPTER, "canary": {"analysis": {"probes": None, **EASY}, **whole}}}


def test_bad_adapter_rolls_itself_back(release: Release, adapters: str) -> None:
    """An adapter that answers worse is taken back by its quality; no request failed."""
    assert adapters
    with traffic(release, ADAPTER) as counted:
        worse = canary(model="passage-qa-bad", analysis={**EASY, "probes": PROBES})
        found = ended(release, worse, "RolledBack")

    assert "quality" in found["reason"]
    assert counted.asked > 0
    assert counted.failed == []


def test_good_adapter_is_promoted(release: Release, adapters: str) -> None:
    """An adapter as good as stable's takes its name over without a pod; no request failed."""
    assert adapters
    with traffic(release, ADAPTER) as counted:
        equal = canary(model="passage-qa-v2", analysis={**EASY, "probes": PROBES})
        found = ended(release, equal, "Promoted")

    assert found["gate"]["verdict"] == "promote"
    assert counted.failed == []
    shown = run("kubectl", "bem", "canary", "status", "router", "--namespace", release.namespace)
    assert "passage-qa-v2" in shown


def image_of(release: Release) -> str:
    """Return the image of the router's pod."""
    containers = release.pod("router")["spec"]["containers"]
    return str(next(c["image"] for c in containers if c["name"] == "router"))


def test_bad_pod_rolls_itself_back(release: Release) -> None:
    """A second Deployment whose pod refuses most requests is taken back and removed."""
    small = {"BEM_ROUTER_CONTEXT_TOKENS": "16"}
    with traffic(release, "smollm2-135m-instruct") as counted:
        found = ended(release, canary(image=image_of(release), env=small), "RolledBack")
    gone = ("wait", "--for=delete", "deployment/bem-fleet-router-canary", "--timeout=60s")
    release.kubectl(*gone)

    assert "errors" in found["reason"]
    assert counted.failed == []


def test_good_pod_is_promoted_and_undone(release: Release) -> None:
    """A good one becomes stable without a failed request; `kubectl rollout undo` takes it back."""
    with traffic(release, "smollm2-135m-instruct") as counted:
        # A merge patch keeps what it does not name.
        better = {"BEM_ROUTER_ROWS": "8", "BEM_ROUTER_CONTEXT_TOKENS": None}
        ended(release, canary(image=image_of(release), env=better), "Promoted")
    promoted = release.pod("router")
    release.kubectl("rollout", "undo", "deployment/bem-fleet-router")
    release.rolled_out()

    def rows(pod: dict[str, Any]) -> list[str]:
        return [
            e["value"]
            for c in pod["spec"]["containers"]
            for e in c["env"]
            if e["name"] == "BEM_ROUTER_ROWS"
        ]

    assert rows(promoted) == ["8"]
    assert counted.failed == []
    assert rows(release.pod("router")) == []
    assert "Paris" in answer(release)

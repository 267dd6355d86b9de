"""Mission resource: what is read of an object."""

import pytest
from bem_fleet.services.orchestrator.assignment.gpu_requests import Priority
from bem_fleet.services.orchestrator.canary.machine import CanaryPhase
from bem_fleet.services.orchestrator.mission import (
    APPLIED_REPLICAS,
    COMMAND,
    VALUES_REPLICAS,
    read_mission,
)

from tests.unit.services.orchestrator.missions import mission, raw_mission


def test_an_empty_specification_has_the_crds_defaults() -> None:
    """A mission is its own Deployment, of medium priority, with one pod."""
    read = mission()

    assert (read.workload, read.container, read.port) == ("router", "mission", 50051)
    assert (read.priority, read.replicas, read.cpu_fallback) == (Priority.MEDIUM, 1, True)
    assert (read.phase, read.ready_replicas, read.canary) == ("Pending", 0, None)


@pytest.mark.parametrize("field", ["replicas", "priority", "port", "container", "cpuFallback"])
def test_defaults_are_not_stated_again(field: str) -> None:
    """An object that no API server has completed cannot be read."""
    raw = raw_mission()
    del raw["spec"][field]

    with pytest.raises(KeyError, match=field):
        read_mission(raw)


def test_status_and_canary_are_parsed_once() -> None:
    """State, gate and placement come with the mission."""
    gate = {"verdict": "promote", "pairs": 7}
    status = {
        "phase": "Running",
        "readyReplicas": 2,
        "assignment": [{"request": "primary", "pods": {"n": 2}}],
        "canary": {"id": "a", "phase": "Canary", "step": 2, "weight": 25, "gate": gate},
    }
    read = mission(status=status, replicas=2, gpus=[{"name": "primary"}])

    assert (read.phase, read.ready_replicas) == ("Running", 2)
    assert read.placed == {"bem/router/primary": {"n": 2}}
    assert read.canary_status.state.phase is CanaryPhase.CANARY
    assert (read.canary_status.state.step, read.canary_status.gate.verdict) == (1, "promote")


def test_only_the_first_gpu_request_is_of_the_pods() -> None:
    """Others reserve GPUs once; a stopped mission requests none."""
    gpus = [{"name": "primary", "count": 2}, {"name": "spare", "device": "H100_0"}]
    read = mission(replicas=3, gpus=gpus)

    assert [(r.name, r.pods, r.gpus) for r in read.gpu_requests] == [
        ("primary", 3, 2),
        ("spare", 1, 1),
    ]
    assert mission(replicas=0, gpus=gpus).gpu_requests == ()


def test_a_pod_canary_requests_gpus_of_its_own() -> None:
    """As many a pod as stable's, on any device; an adapter canary needs none."""
    gpus = [{"name": "primary", "count": 1, "device": "H100_0"}]
    request = mission(gpus=gpus, canary={"image": "i", "replicas": 2}).canary_gpu_request

    assert request is not None
    assert (request.key, request.pods, request.device) == ("bem/router/primary-canary", 2, "")
    assert mission(gpus=gpus, canary={"model": "m"}).canary_gpu_request is None


def test_a_command_is_read_from_the_annotation() -> None:
    """Spaces and capitals of a person's annotation do not matter."""
    raw = raw_mission()
    raw["metadata"]["annotations"] = {COMMAND: " Pause "}

    assert read_mission(raw).command == "pause"
    assert mission().command == ""


@pytest.mark.parametrize(
    ("replicas", "wanted", "applied", "newer"),
    [
        (1, None, None, None),
        (1, "3", None, 3),
        (2, "3", None, 2),
        (2, "3", "3", None),
        (2, "4", "3", 4),
    ],
)
def test_values_decide_when_they_change(
    replicas: int, wanted: str | None, applied: str | None, newer: int | None
) -> None:
    """A number that a person chose in an earlier chart's Mission is taken for the values'."""
    raw = raw_mission(replicas=replicas)
    given = {VALUES_REPLICAS: wanted, APPLIED_REPLICAS: applied}
    raw["metadata"]["annotations"] = {key: text for key, text in given.items() if text}

    assert read_mission(raw).newer_replicas == newer

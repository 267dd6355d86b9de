"""Mission status: phases, columns and conditions."""

from typing import Any

import pytest
from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    AssignmentPlan,
    UnmetReason,
    UnmetRequest,
)
from bem_fleet.services.orchestrator.mission_status import mission_status

from tests.unit.services.orchestrator.missions import deployment, mission

H100 = "NVIDIA-H100-80GB-HBM3"
KEY = "bem/router/primary"
GPUS = [{"name": "primary"}]
UNMET = UnmetRequest(UnmetReason.OVERBOOKED, "all GPUs are booked", 1)
PLACED = AssignmentPlan({KEY: {"n": 1}})


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return status and reason of each condition."""
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (({"gpus": GPUS}, PLACED, {"n": H100}, deployment()), ("Running", "1xH100")),
        (({"gpus": GPUS}, PLACED, {"n": H100}, deployment(ready=0)), ("Progressing", "1xH100")),
        (({"gpus": GPUS}, AssignmentPlan(), {"n": H100}, deployment()), ("Pending", "none")),
        (({"gpus": GPUS}, AssignmentPlan(), {}, deployment()), ("Running", "cpu")),
        (
            ({"gpus": GPUS, "replicas": 2}, PLACED, {"n": H100}, deployment()),
            ("Degraded", "1xH100"),
        ),
        (({}, AssignmentPlan(), {}, deployment()), ("Running", "cpu")),
        (({}, AssignmentPlan(), {}, None), ("Pending", "cpu")),
        (({"replicas": 0}, AssignmentPlan(), {}, deployment(ready=0)), ("Stopped", "cpu")),
    ],
)
def test_the_phase_follows_from_pods_and_gpus(
    given: tuple[dict[str, Any], AssignmentPlan, dict[str, str], dict[str, Any] | None],
    expected: tuple[str, str],
) -> None:
    """Every combination of plan and Deployment has one phase and one GPU column."""
    spec, plan, products, made = given
    status = mission_status(mission(**spec), plan, products, made)

    assert (status["phase"], status["gpu"]) == expected


def test_an_unmet_request_is_a_condition_with_its_reason() -> None:
    """Who has the GPUs is in the message; a conflict is reported as such."""
    plan = AssignmentPlan(unmet={KEY: UNMET})
    status = mission_status(mission(gpus=GPUS), plan, {"n": H100}, deployment())

    assert conditions(status)["GPUAssigned"] == ("False", "Overbooked")
    assert conditions(status)["Conflict"] == ("True", "Overbooked")
    message = next(c["message"] for c in status["conditions"] if c["type"] == "GPUAssigned")
    assert message == "primary: all GPUs are booked"


def test_a_missing_container_is_named() -> None:
    """The Deployment is there, but nothing can get the GPUs."""
    status = mission_status(mission(container="other"), AssignmentPlan(), {}, deployment())

    assert conditions(status)["WorkloadFound"] == ("False", "ContainerMissing")


def test_an_unchanged_condition_keeps_its_time() -> None:
    """Otherwise every pass would write a new status."""
    first = mission_status(mission(), AssignmentPlan(), {}, deployment())
    for condition in first["conditions"]:
        condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    again = mission_status(mission(status=first), AssignmentPlan(), {}, deployment())
    later = mission_status(mission(status=first), AssignmentPlan(), {}, None)

    assert again["conditions"] == first["conditions"]
    times = {c["type"]: c["lastTransitionTime"] for c in later["conditions"]}
    assert times["Conflict"] == "2026-01-01T00:00:00Z"
    assert times["WorkloadFound"] > "2026-01-01T00:00:00Z"

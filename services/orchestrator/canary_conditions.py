"""Conditions about canaries: whether the last command was followed, and a promotion is in force."""

from typing import Any

from bem_fleet.services.orchestrator import workloads
from bem_fleet.services.orchestrator.canary.machine import COMMANDS, CanaryPhase, CanaryState
from bem_fleet.services.orchestrator.mission import (
    COMMAND,
    GROUP,
    MISSION_ANNOTATIONS,
    Mission,
)
from bem_fleet.services.orchestrator.mission_status import ConditionBuilder

Object = dict[str, Any]
ACCEPTED, IN_FORCE = "CanaryCommandAccepted", "PromotionInForce"


def add_canary_conditions(
    builder: ConditionBuilder, mission: Mission, state: CanaryState, stable: Object | None
) -> None:
    """Add the conditions that have something to say.

    Args:
        builder: Builder of the mission's conditions.
        mission: The mission, with its command if there is one.
        state: State of the canary after this pass.
        stable: The mission's Deployment; None if it is missing.
    """
    _add_command(builder, mission, state)
    promoted = mission.canary_status.image
    if state.phase is CanaryPhase.PROMOTED and promoted and stable is not None:
        holds = workloads.runs_image(stable, mission, promoted)
        if holds:
            builder.add(IN_FORCE, True, "Runs", f"stable runs {promoted}")
        else:
            reason = f"{promoted} was promoted, and stable runs {_image(stable, mission)} since"
            builder.add(IN_FORCE, False, "StableChanged", reason)


def _add_command(builder: ConditionBuilder, mission: Mission, state: CanaryState) -> None:
    if unknown := _unknown_annotations(mission):
        message = f"annotation {unknown[0]} is unknown; commands are values of {COMMAND}"
        builder.add(ACCEPTED, False, "UnknownAnnotation", message)
        return
    command, before = mission.command, mission.canary_status.state
    if not command:
        if state.id == before.id:
            builder.keep(ACCEPTED)
    elif command not in COMMANDS:
        message = f"unknown command {command[:40]!r}; set one of {', '.join(COMMANDS)}"
        builder.add(ACCEPTED, False, "UnknownCommand", message)
    elif before.phase.is_final:
        ended = f"the last one is {before.phase}" if before.id else "there was none yet"
        message = f"{command}: no canary is in progress, {ended}"
        if before.phase is CanaryPhase.PROMOTED:
            message += "; to go back start a canary of what stable ran before"
        builder.add(ACCEPTED, False, "NoCanaryInProgress", message)
    else:
        builder.add(ACCEPTED, True, "Accepted", command)


def _unknown_annotations(mission: Mission) -> list[str]:
    """Return annotations of this group that mean nothing on a Mission: likely misspelt."""
    annotations = mission.raw["metadata"].get("annotations") or {}
    own = {key for key in annotations if key.startswith(f"{GROUP}/")}
    return sorted(own - MISSION_ANNOTATIONS)


def _image(stable: Object, mission: Mission) -> str:
    containers = stable["spec"]["template"]["spec"]["containers"]
    return next((str(c.get("image")) for c in containers if c["name"] == mission.container), "none")

"""Canary specification: ``spec.canary`` of a Mission, with the defaults of its CRD filled in.

The defaults are stated once, in the schema of ``charts/crds/missions.yaml``. An API server fills
them in; on one machine ``local.mission_schema`` does, from the same file. This module therefore
requires every field that has a default there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from json import dumps
from typing import Any


@dataclass(frozen=True)
class Step:
    """One traffic step of a canary.

    Attributes:
        weight: Percent of sessions that the canary answers, 1 to 100.
        seconds: Minimum duration of the step, in seconds.
        hold: Whether the step waits for a person's ``resume``.
    """

    weight: int
    seconds: float
    hold: bool


@dataclass(frozen=True)
class CanarySpec:
    """What a canary tries, and how traffic moves to it.

    Attributes:
        id: Digest of image, adapter, environment and attempt; another digest is another canary.
        image: Container image of a second Deployment (pod canary); empty for an adapter canary.
        model: Adapter that is tried (adapter canary); empty for a pod canary.
        env: Environment variables of the canary's container that differ from stable's.
        replicas: Number of pods of the second Deployment.
        shadow: Percent of stable's requests that are mirrored to the canary.
        shadow_s: Duration of the mirror-only phase before the first step, in seconds.
        ready_s: Longest time until the canary is ready, in seconds.
        steps: Traffic steps in order.
        analysis: Parameters of the canary analysis, as in the CRD; passed on to validation.
    """

    id: str
    image: str
    model: str
    env: Mapping[str, str]
    replicas: int
    shadow: int
    shadow_s: float
    ready_s: float
    steps: tuple[Step, ...]
    analysis: Mapping[str, Any]


def canary_digest(canary: Mapping[str, Any]) -> str:
    """Return the id of ``spec.canary``; the same before and after defaults are filled in."""
    identity = {key: canary.get(key) for key in ("image", "model", "env")}
    # Absent and 0 are the same attempt: a caller computes the id before defaults are filled in.
    identity["attempt"] = canary.get("attempt") or 0
    return sha256(dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def read_canary(canary: Mapping[str, Any] | None) -> CanarySpec | None:
    """Read ``spec.canary``; None if there is none.

    Raises:
        KeyError: A field that has a default in the CRD is absent.
    """
    if not canary:
        return None
    return CanarySpec(
        id=canary_digest(canary),
        image=canary.get("image", ""),
        model=canary.get("model", ""),
        env=dict(canary.get("env") or {}),
        replicas=int(canary["replicas"]),
        shadow=int(canary["shadow"]),
        shadow_s=float(canary["shadowSeconds"]),
        ready_s=float(canary["readySeconds"]),
        steps=tuple(
            Step(int(step["weight"]), float(step["seconds"]), bool(step["hold"]))
            for step in canary["steps"]
        ),
        analysis=canary["analysis"],
    )

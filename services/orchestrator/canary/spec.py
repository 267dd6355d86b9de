"""What a person asks of a canary: ``spec.canary`` of a Mission."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from json import dumps
from typing import Any


@dataclass(frozen=True)
class Step:
    """One share of the sessions.

    Attributes:
        weight: Percent, 1 to 100.
        seconds: Least time of the step.
        hold: Whether it waits for a person.
    """

    weight: int
    seconds: float = 60.0
    hold: bool = False


@dataclass(frozen=True)
class Probe:
    """A question with known answers.

    Attributes:
        prompt: What is asked.
        answers: Any of these is right.
    """

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    """What the canary must show; the fields are the CRD's, in its units."""

    alpha: float = 0.05
    max_pairs: int = 20_000
    error_margin: float = 0.02
    violation_margin: float = 0.02
    latency_margin: float = 1.25
    quality_margin: float = 0.05
    error_limit: int = 10
    violation_limit: int = 10
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class CanarySpec:
    """What to try and how.

    Attributes:
        id: Digest of what is tried: another one is another canary.
        image: Image of a second Deployment (a pod canary), or empty.
        model: Another adapter (an adapter canary), or empty.
        env: Variables of the canary's container that differ.
        replicas: Pods of the second Deployment.
        shadow: Percent of stable's requests that are mirrored.
        shadow_s: Time with the mirror only, before the first step.
        ready_s: Longest wait until it can answer.
        steps: Shares of sessions.
        analysis: What it must show.
    """

    id: str
    image: str = ""
    model: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    replicas: int = 1
    shadow: int = 0
    shadow_s: float = 0.0
    ready_s: float = 600.0
    steps: tuple[Step, ...] = (Step(5), Step(25), Step(50))
    analysis: Analysis = field(default_factory=Analysis)

    @property
    def tries(self) -> str:
        """Return what is tried, for people."""
        return self.image or self.model


def read_canary(given: Mapping[str, Any] | None) -> CanarySpec | None:
    """Read ``spec.canary``; None if there is none."""
    if not given:
        return None
    identity = {key: given.get(key) for key in ("image", "model", "env")}
    identity["attempt"] = given.get("attempt", 0)  # the schema's default, not filled in everywhere
    analysis = given.get("analysis") or {}
    steps = tuple(
        Step(int(s["weight"]), float(s.get("seconds", 60)), bool(s.get("hold", False)))
        for s in given.get("steps") or ()
    )
    defaults = Analysis()
    return CanarySpec(
        id=sha256(dumps(identity, sort_keys=True).encode()).hexdigest()[:10],
        image=given.get("image", ""),
        model=given.get("model", ""),
        env=dict(given.get("env") or {}),
        replicas=int(given.get("replicas", 1)),
        shadow=int(given.get("shadow", 0)),
        shadow_s=float(given.get("shadowSeconds", 0)),
        ready_s=float(given.get("readySeconds", 600)),
        steps=steps or (Step(5), Step(25), Step(50)),
        analysis=Analysis(
            alpha=float(analysis.get("alpha", defaults.alpha)),
            max_pairs=int(analysis.get("maxPairs", defaults.max_pairs)),
            error_margin=float(analysis.get("errorMargin", defaults.error_margin)),
            violation_margin=float(analysis.get("violationMargin", defaults.violation_margin)),
            latency_margin=float(analysis.get("latencyMargin", defaults.latency_margin)),
            quality_margin=float(analysis.get("qualityMargin", defaults.quality_margin)),
            error_limit=int(analysis.get("errorLimit", defaults.error_limit)),
            violation_limit=int(analysis.get("violationLimit", defaults.violation_limit)),
            probes=tuple(
                Probe(p["prompt"], tuple(p["answers"])) for p in analysis.get("probes") or ()
            ),
        ),
    )

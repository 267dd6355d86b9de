"""Parsing of canary analysis requests, with the limit of every field."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bem_fleet.services.validation.canary_observations import DECISIONS_SUFFIX, SCORES_SUFFIX
from bem_fleet.services.validation.probe_client import ProbeTarget
from bem_fleet.stats.canary_terms import TRIPWIRE_WINDOW, AnalysisTerms
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError
from fleet.wire import CANARY_STREAM_PAIRS

MAX_ID_LENGTH = 256
MAX_PROBES = 200
MAX_PROMPT_LENGTH = 8192
MAX_ANSWERS = 16
MAX_PAIRS = CANARY_STREAM_PAIRS
"""More pairs than the stream keeps could not be read again after a restart."""
MAX_TAIL_RATIO = 100


@dataclass(frozen=True)
class CanaryAnalysisRequest:
    """A validated request for a canary's verdict.

    Attributes:
        id: Id of the canary's observations.
        terms: Terms of the analysis.
        probes: Probes of the canary's quality.
        targets: Stable and canary track; None without probes.
    """

    id: str
    terms: AnalysisTerms
    probes: Sequence[pb.CanaryProbe]
    targets: tuple[ProbeTarget, ProbeTarget] | None


def parse_analysis_request(
    request: pb.AnalyzeCanaryRequest, missions: Mapping[str, str], canaries: Mapping[str, str]
) -> CanaryAnalysisRequest:
    """Validate a request.

    Args:
        request: The request.
        missions: Address of each mission's stable pods by name.
        canaries: Address of the canary's own pods by name of the mission.

    Raises:
        InvalidArgumentError: A field is missing or exceeds its limit.
    """
    name = request.canary_id
    # An id with the suffix of another key would read that canary's scores as pairs.
    if not 1 <= len(name) <= MAX_ID_LENGTH or name.endswith((SCORES_SUFFIX, DECISIONS_SUFFIX)):
        raise InvalidArgumentError(
            "canary_id", f"{name[:40]!r} is not an id; use 1 to {MAX_ID_LENGTH} characters"
        )
    if len(request.probes) > MAX_PROBES:
        raise InvalidArgumentError(
            "probes", f"{len(request.probes)} probes; at most {MAX_PROBES} are allowed"
        )
    for probe in request.probes:
        _check_probe(probe)
    targets = None
    if request.probes:
        stable = _address(request.mission, missions)
        canary = _address(request.mission, canaries) if request.canary_has_pods else stable
        targets = (
            ProbeTarget(stable, request.stable.model),
            ProbeTarget(canary, request.canary.model),
        )
    return CanaryAnalysisRequest(name, parse_terms(request.terms), request.probes, targets)


def _address(mission: str, addresses: Mapping[str, str]) -> str:
    """Return the address that the settings give for a mission; a request's text is never dialled.

    Raises:
        InvalidArgumentError: The settings do not name the mission.
    """
    if mission not in addresses:
        known = ", ".join(sorted(addresses)) or "none"
        raise InvalidArgumentError(
            "mission", f"{mission[:40]!r} has no address in the settings; known are {known}"
        )
    return addresses[mission]


def parse_terms(terms: pb.CanaryTerms) -> AnalysisTerms:
    """Validate the terms; every field is required, because the defaults are the Mission schema's.

    Raises:
        InvalidArgumentError: A field is missing or out of range.
    """

    def required(field: str) -> float:
        if not terms.HasField(field):  # type: ignore[arg-type]
            raise InvalidArgumentError(f"terms.{field}", "is missing; all terms are required")
        return float(getattr(terms, field))

    def between(field: str, low: float, high: float) -> float:
        value = required(field)
        if not (math.isfinite(value) and low < value < high):
            raise InvalidArgumentError(
                f"terms.{field}",
                f"{value:g} is out of range; it must lie between {low:g} and {high:g}",
            )
        return value

    def count(field: str, high: int) -> int:
        value = int(required(field))
        if not 1 <= value <= high:
            raise InvalidArgumentError(
                f"terms.{field}", f"{value} is out of range; 1 to {high} are allowed"
            )
        return value

    return AnalysisTerms(
        alpha=between("alpha", 0, 1),
        max_pairs=count("max_pairs", MAX_PAIRS),
        error_margin=between("error_margin", 0, 1),
        violation_margin=between("violation_margin", 0, 1),
        latency_margin=between("latency_margin", 1, 4),
        quality_margin=between("quality_margin", 0, 1),
        error_limit=count("error_limit", TRIPWIRE_WINDOW),
        violation_limit=count("violation_limit", TRIPWIRE_WINDOW),
        min_answered=between("min_answered", 0, 1),
        tail_ratio=between("tail_ratio", 1, MAX_TAIL_RATIO),
        p95_margin=between("p95_margin", 0, 1),
        p99_margin=between("p99_margin", 0, 1),
    )


def _check_probe(probe: pb.CanaryProbe) -> None:
    if not 1 <= len(probe.prompt) <= MAX_PROMPT_LENGTH:
        raise InvalidArgumentError(
            "probes.prompt",
            f"has {len(probe.prompt)} characters; 1 to {MAX_PROMPT_LENGTH} are allowed",
        )
    if not 1 <= len(probe.answers) <= MAX_ANSWERS:
        raise InvalidArgumentError(
            "probes.answers", f"has {len(probe.answers)} answers; 1 to {MAX_ANSWERS} are allowed"
        )

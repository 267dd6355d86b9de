"""A request about a canary read into a question, with every limit named that it breaks."""

import math
from dataclasses import dataclass

from bem_fleet.services.validation.canaries import WINDOW, Terms
from bem_fleet.services.validation.probing import Probe, Side
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError

MAX_ID = 256
MAX_PROBES = 200
MAX_PROMPT = 8192
MAX_ANSWERS = 16
MAX_PAIRS = 1_000_000


@dataclass(frozen=True)
class CanaryQuestion:
    """What is asked of a canary.

    Attributes:
        id: Name of its observations.
        terms: What it must show.
        probes: Questions for its quality.
        sides: Stable and canary; None without probes.
    """

    id: str
    terms: Terms
    probes: tuple[Probe, ...]
    sides: tuple[Side, Side] | None


def canary_question(request: pb.JudgeCanaryRequest) -> CanaryQuestion:
    """Read a request.

    Raises:
        InvalidArgumentError: A field is missing or breaks its limit.
    """
    name = request.canary_id
    if not 1 <= len(name) <= MAX_ID or name.endswith(":scores"):
        raise InvalidArgumentError("canary_id", f"1 to {MAX_ID} characters, not {name[:40]!r}")
    if len(request.probes) > MAX_PROBES:
        raise InvalidArgumentError("probes", f"{len(request.probes)}; at most {MAX_PROBES}")
    probes = tuple(_probe(one) for one in request.probes)
    sides = None
    if probes:
        if not (request.stable.address and request.canary.address):
            raise InvalidArgumentError("stable", "probes need the addresses of both sides")
        stable, canary = request.stable, request.canary
        sides = Side(stable.address, stable.model), Side(canary.address, canary.model)
    return CanaryQuestion(name, _terms(request.terms), probes, sides)


def _terms(given: pb.CanaryTerms) -> Terms:
    usual = Terms()
    limits = [
        given.error_limit or usual.error_limit,
        given.violation_limit or usual.violation_limit,
    ]
    for field, limit in zip(("error_limit", "violation_limit"), limits, strict=True):
        if not 1 <= limit <= WINDOW:
            raise InvalidArgumentError(f"terms.{field}", f"is {limit}; 1 to {WINDOW} are allowed")
    pairs = given.max_pairs or usual.max_pairs
    if not 1 <= pairs <= MAX_PAIRS:
        raise InvalidArgumentError("terms.max_pairs", f"is {pairs}; 1 to {MAX_PAIRS} are allowed")

    def within(field: str, low: float, high: float, default: float) -> float:
        value = float(getattr(given, field)) if given.HasField(field) else default  # type: ignore[arg-type]
        if not (math.isfinite(value) and low < value < high):
            raise InvalidArgumentError(
                f"terms.{field}", f"is {value:g}; between {low:g} and {high:g} is allowed"
            )
        return value

    return Terms(
        alpha=within("alpha", 0, 1, usual.alpha),
        max_pairs=pairs,
        errors=within("error_margin", 0, 1, usual.errors),
        violations=within("violation_margin", 0, 1, usual.violations),
        latency=within("latency_margin", 1, 4, usual.latency),
        quality=within("quality_margin", 0, 1, usual.quality),
        error_limit=limits[0],
        violation_limit=limits[1],
    )


def _probe(given: pb.CanaryProbe) -> Probe:
    if not 1 <= len(given.prompt) <= MAX_PROMPT:
        raise InvalidArgumentError("probes.prompt", f"1 to {MAX_PROMPT} characters are needed")
    if not 1 <= len(given.answers) <= MAX_ANSWERS:
        raise InvalidArgumentError("probes.answers", f"1 to {MAX_ANSWERS} are needed")
    return Probe(given.prompt, tuple(given.answers))

"""Requests read into questions, with every limit named that they break."""

import math
from collections.abc import Mapping, Sequence

from bem.errors import GateFormatError
from bem_fleet.acceptance.catalogue import Catalogue, Direction, GateRule, GateStatistic
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.services.validation.claims import Comparison, GateQuestion, Lineage
from bem_fleet.stats.distribution import Statistic as OfMeans
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError

MAX_KEY = 256
MAX_DIGEST = 128
MAX_COMMAND = 2048
MAX_GIVEN = 100_000

_OF_MEANS: Mapping[int, OfMeans] = {
    pb.STATISTIC_UNSPECIFIED: "difference",
    pb.STATISTIC_DIFFERENCE: "difference",
    pb.STATISTIC_RATIO: "ratio",
}
_STATISTICS: Mapping[int, GateStatistic] = {
    **_OF_MEANS,
    pb.STATISTIC_MEAN: "mean",
    pb.STATISTIC_SHARE: "share",
}
_DIRECTIONS: Mapping[int, Direction] = {
    pb.DIRECTION_HIGHER: "higher",
    pb.DIRECTION_LOWER: "lower",
}


def comparison(head: pb.CompareHead, scores: Mapping[str, PairedScores]) -> Comparison:
    """Read a comparison.

    Raises:
        InvalidArgumentError: A field is missing or breaks its limit.
    """
    statistic = _OF_MEANS.get(head.statistic)
    if statistic is None:
        raise InvalidArgumentError("statistic", "a comparison is a difference or a ratio")
    null = 1.0 if statistic == "ratio" else 0.0
    if head.HasField("null_value"):
        null = _finite("null_value", head.null_value)
    for name, one in scores.items():
        if one.baseline is None:
            raise InvalidArgumentError("baseline", f"{name}: a comparison needs baseline scores")
    return Comparison(
        claim=_text("claim", head.claim, MAX_KEY),
        lineage=_lineage(head.lineage),
        scores=scores,
        statistic=statistic,
        null=null,
    )


def gate_of(head: pb.GateHead, catalogue: Catalogue) -> GateRule:
    """Return the gate that a request names or describes.

    Raises:
        InvalidArgumentError: It is unknown, or described with what no gate can have.
    """
    if head.WhichOneof("gate") == "spec":
        return _described(head.spec, catalogue)
    if head.gate_id not in catalogue.gates:
        known = ", ".join(catalogue.gates)
        raise InvalidArgumentError("gate_id", f"{head.gate_id[:64]!r} is no gate; gates: {known}")
    return catalogue.gates[head.gate_id].rule


def gate_question(
    head: pb.GateHead, gate: GateRule, scores: Mapping[str, PairedScores]
) -> GateQuestion:
    """Read a question for a gate's verdict.

    Raises:
        InvalidArgumentError: A field breaks its limit, or the scores are not of the gate's metrics.
    """
    if missing := [name for name in gate.metrics if name not in scores]:
        raise InvalidArgumentError(
            "scores", f"gate {gate.id} needs {', '.join(gate.metrics)}; missing: {missing[0]}"
        )
    if extra := [name for name in scores if name not in gate.metrics]:
        raise InvalidArgumentError("scores", f"gate {gate.id} has no metric {extra[0]}")
    if gate.statistic in ("difference", "ratio"):
        for name, one in scores.items():
            if one.baseline is None:
                raise InvalidArgumentError(
                    "baseline",
                    f"{name}: gate {gate.id} is a {gate.statistic} and needs one",
                )
    return GateQuestion(
        claim=_text("claim", head.claim, MAX_KEY),
        lineage=_lineage(head.lineage),
        scores=scores,
        gate=gate,
    )


def given_p(entries: Sequence[pb.NamedP]) -> dict[str, float]:
    """Read the p-values of a correction.

    Raises:
        InvalidArgumentError: Too many, a repeated name, or no probability.
    """
    if len(entries) > MAX_GIVEN:
        raise InvalidArgumentError("given", f"{len(entries)} p-values; at most {MAX_GIVEN}")
    found: dict[str, float] = {}
    for entry in entries:
        name = _text("given.name", entry.name, MAX_KEY)
        if name in found:
            raise InvalidArgumentError("given.name", f"{name!r} is there twice")
        if not 0 <= entry.p <= 1:
            raise InvalidArgumentError("given.p", f"{name!r} has {entry.p}; 0 to 1 are allowed")
        found[name] = entry.p
    return found


def rate(request: pb.CorrectRequest) -> float | None:
    """Return the false discovery rate that is asked for, None for the service's own.

    Raises:
        InvalidArgumentError: It is not between 0 and 1.
    """
    if not request.HasField("alpha"):
        return None
    if not 0 < request.alpha < 1:
        raise InvalidArgumentError("alpha", f"is {request.alpha}; it must lie between 0 and 1")
    return request.alpha


def _described(spec: pb.GateSpec, catalogue: Catalogue) -> GateRule:
    identifier = _text("spec.id", spec.id, 64)
    if identifier in catalogue.gates:
        raise InvalidArgumentError("spec.id", f"{identifier} is the fleet's own: give gate_id")
    if not 1 <= len(set(spec.metrics)) == len(spec.metrics) <= 16:
        raise InvalidArgumentError("spec.metrics", "1 to 16 different metrics are needed")
    statistic = _STATISTICS.get(spec.statistic)
    direction = _DIRECTIONS.get(spec.direction)
    if statistic is None or direction is None:
        raise InvalidArgumentError("spec", "statistic and direction must be of the known ones")
    bounds = spec.HasField("at_most") + spec.HasField("at_least")
    if bounds != (statistic == "share"):
        raise InvalidArgumentError("spec", "a share, and only a share, has at_most or at_least")
    if spec.min_items < 2 or spec.min_seeds < 1:
        raise InvalidArgumentError("spec", "min_items is at least 2, min_seeds at least 1")
    try:
        return GateRule(
            id=identifier,
            metrics=tuple(spec.metrics),
            statistic=statistic,
            direction=direction,
            target=_finite("spec.target", spec.target),
            margin=_finite("spec.margin", spec.margin),
            min_items=spec.min_items,
            min_seeds=spec.min_seeds,
            at_most=_finite("spec.at_most", spec.at_most) if spec.HasField("at_most") else None,
            at_least=_finite("spec.at_least", spec.at_least) if spec.HasField("at_least") else None,
        )
    except GateFormatError as err:
        raise InvalidArgumentError("spec", str(err)) from err


def _lineage(given: pb.Lineage) -> Lineage:
    return Lineage(
        mission_digest=_text("lineage.mission_digest", given.mission_digest, MAX_DIGEST),
        baseline_digest=_text("lineage.baseline_digest", given.baseline_digest, MAX_DIGEST),
        data_digest=_text("lineage.data_digest", given.data_digest, MAX_DIGEST),
        command=_text("lineage.command", given.command, MAX_COMMAND),
    )


def _text(field: str, value: str, limit: int) -> str:
    if not 1 <= len(value) <= limit:
        raise InvalidArgumentError(field, f"has {len(value)} characters; 1 to {limit} are needed")
    return value


def _finite(field: str, value: float) -> float:
    if not math.isfinite(value):
        raise InvalidArgumentError(field, f"is {value}; a finite number is needed")
    return value

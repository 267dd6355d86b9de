"""Parsing of comparison, gate, family and correction requests, with the limit of every field."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from bem.errors import GateFormatError
from bem_fleet.acceptance.catalogue import Catalogue, Direction, GateRule, GateStatistic
from bem_fleet.acceptance.score_report import ITEM, PairedScores
from bem_fleet.services.validation.claims import (
    GATES_FAMILY,
    Comparison,
    GateCheck,
    Lineage,
    comparison_terms,
    gate_terms,
)
from bem_fleet.services.validation.declared_families import Terms
from bem_fleet.stats.distribution import Statistic as MeanStatistic
from bem_fleet.stats.samples import LARGEST_SCORE
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError

MAX_KEY_LENGTH = 256
MAX_DIGEST_LENGTH = 128
MAX_COMMAND_LENGTH = 2048
MAX_P_VALUES = 100_000
MAX_NAME_LENGTH = 64
MAX_MEMBERS = 256
# A null value of a ratio; no gate is further from 1.
_SMALLEST_RATIO, _LARGEST_RATIO = 1e-6, 1e6

_MEAN_STATISTICS: Mapping[int, MeanStatistic] = {
    pb.STATISTIC_UNSPECIFIED: "difference",
    pb.STATISTIC_DIFFERENCE: "difference",
    pb.STATISTIC_RATIO: "ratio",
}
_STATISTICS: Mapping[int, GateStatistic] = {
    **_MEAN_STATISTICS,
    pb.STATISTIC_MEAN: "mean",
    pb.STATISTIC_SHARE: "share",
}
_DIRECTIONS: Mapping[int, Direction] = {
    pb.DIRECTION_HIGHER: "higher",
    pb.DIRECTION_LOWER: "lower",
}


def parse_comparison(
    head: pb.CompareHead, scores: Mapping[str, PairedScores], catalogue: Catalogue
) -> Comparison:
    """Validate a comparison.

    Raises:
        InvalidArgumentError: A field is missing or exceeds its limit.
    """
    (metric,) = scores
    statistic, null = _parse_null(head, metric, catalogue)
    if bool(head.family) != bool(head.member):
        raise InvalidArgumentError("member", "family and member belong together; set both or none")
    if head.family:
        _check_family(head.family)
        _check_length("member", head.member, MAX_NAME_LENGTH)
    for name, one in scores.items():
        if one.baseline is None:
            raise InvalidArgumentError(
                "baseline", f"{name}: baseline scores are missing; a comparison needs both sides"
            )
    return Comparison(
        claim=_check_length("claim", head.claim, MAX_KEY_LENGTH),
        lineage=_parse_lineage(head.lineage),
        scores=scores,
        statistic=statistic,
        null=null,
        family=head.family,
        member=head.member,
    )


def parse_family(
    request: pb.DeclareFamilyRequest, catalogue: Catalogue
) -> tuple[str, dict[str, Terms]]:
    """Return the name of a family and the terms of each member.

    Raises:
        InvalidArgumentError: A field is missing or exceeds its limit, or a name is repeated.
    """
    if not 1 <= len(request.members) <= MAX_MEMBERS:
        raise InvalidArgumentError(
            "members", f"{len(request.members)} members; 1 to {MAX_MEMBERS} are allowed"
        )
    members: dict[str, Terms] = {}
    for one in request.members:
        name, terms = _parse_member(one, catalogue)
        if name in members:
            raise InvalidArgumentError("members", f"{name!r} is repeated; names are unique")
        if terms in members.values():
            raise InvalidArgumentError(
                "members", f"{name!r} asks what another member asks; declare each question once"
            )
        members[name] = terms
    return _check_family(request.family), members


def parse_correction_family(request: pb.CorrectRequest) -> str | None:
    """Return the family whose members join a correction; None for none.

    Raises:
        InvalidArgumentError: The name is too long.
    """
    if len(request.family) > MAX_NAME_LENGTH:
        raise InvalidArgumentError(
            "family", f"has {len(request.family)} characters; {MAX_NAME_LENGTH} are allowed"
        )
    joins = request.with_family or request.family or not request.given
    return request.family if joins else None


def resolve_gate(head: pb.GateHead, catalogue: Catalogue) -> GateRule:
    """Return the gate that a request names or describes.

    Raises:
        InvalidArgumentError: The gate is unknown, or its description is invalid.
    """
    if head.WhichOneof("gate") == "spec":
        return _parse_gate_spec(head.spec, catalogue)
    if head.gate_id not in catalogue.gates:
        known = ", ".join(catalogue.gates)
        raise InvalidArgumentError("gate_id", f"{head.gate_id[:64]!r} is no gate; gates: {known}")
    return catalogue.gates[head.gate_id].rule


def parse_gate_check(
    head: pb.GateHead, gate: GateRule, scores: Mapping[str, PairedScores]
) -> GateCheck:
    """Validate the evaluation of a gate.

    Raises:
        InvalidArgumentError: A field exceeds its limit, or the scores do not match the gate's
            metrics.
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
                    f"{name}: baseline scores are missing; gate {gate.id} is a {gate.statistic}",
                )
    return GateCheck(
        claim=_check_length("claim", head.claim, MAX_KEY_LENGTH),
        lineage=_parse_lineage(head.lineage),
        scores=scores,
        gate=gate,
        family=_gate_family(head),
    )


def parse_p_values(entries: Sequence[pb.NamedP]) -> dict[str, float]:
    """Validate the p-values of a correction.

    Raises:
        InvalidArgumentError: Too many p-values, a repeated name, or a value outside 0 to 1.
    """
    if len(entries) > MAX_P_VALUES:
        raise InvalidArgumentError(
            "given", f"{len(entries)} p-values; at most {MAX_P_VALUES} are allowed"
        )
    p_values: dict[str, float] = {}
    for entry in entries:
        name = _check_length("given.name", entry.name, MAX_KEY_LENGTH)
        if name in p_values:
            raise InvalidArgumentError("given.name", f"{name!r} is repeated; names are unique")
        if not 0 <= entry.p <= 1:
            raise InvalidArgumentError("given.p", f"{name!r} is {entry.p}; 0 to 1 is allowed")
        p_values[name] = entry.p
    return p_values


def parse_rate(request: pb.CorrectRequest) -> float | None:
    """Return the false discovery rate of a request; None for the service's own.

    Raises:
        InvalidArgumentError: The rate is not between 0 and 1.
    """
    if not request.HasField("alpha"):
        return None
    if not 0 < request.alpha < 1:
        raise InvalidArgumentError(
            "alpha", f"{request.alpha} is out of range; it must lie between 0 and 1"
        )
    return request.alpha


def _parse_null(
    terms: pb.CompareHead | pb.ComparisonTerms, metric: str, catalogue: Catalogue
) -> tuple[MeanStatistic, float]:
    """Return statistic and null value of a comparison."""
    statistic = _MEAN_STATISTICS.get(terms.statistic)
    if statistic is None:
        raise InvalidArgumentError(
            "statistic", "unknown statistic; a comparison is a difference or a ratio"
        )
    low, high = _SMALLEST_RATIO, _LARGEST_RATIO
    if statistic == "difference":
        high = catalogue.metrics[metric].width
        low = -high
    if not terms.HasField("null_value"):
        return statistic, 1.0 if statistic == "ratio" else 0.0
    if not low <= terms.null_value <= high:
        raise InvalidArgumentError(
            "null_value",
            f"is {terms.null_value:g}; a {statistic} of {metric} lies within {low:g} to {high:g}",
        )
    return statistic, terms.null_value


def _parse_member(member: pb.FamilyMember, catalogue: Catalogue) -> tuple[str, Terms]:
    if member.WhichOneof("terms") == "gate":
        rule = _parse_gate_spec(member.gate, catalogue)
        return rule.id, gate_terms(rule)
    terms = member.comparison
    name = _check_length("members.member", terms.member, MAX_NAME_LENGTH)
    if terms.metric not in catalogue.metrics:
        raise InvalidArgumentError(
            "members.metric", f"{terms.metric[:64]!r} is unknown; use a metric of the catalogue"
        )
    return name, comparison_terms(terms.metric, *_parse_null(terms, terms.metric, catalogue))


def _gate_family(head: pb.GateHead) -> str:
    if head.WhichOneof("gate") != "spec":
        if head.family:
            raise InvalidArgumentError(
                "family", "a gate of the catalogue has the catalogue's family; leave it empty"
            )
        return GATES_FAMILY
    if not head.family:
        raise InvalidArgumentError(
            "family",
            "missing; a gate that is not in the catalogue belongs to a family that is declared "
            "before its data; declare one with DeclareFamily",
        )
    return _check_family(head.family)


def _check_family(name: str) -> str:
    if name == GATES_FAMILY:
        raise InvalidArgumentError(
            "family", f"{name!r} is the catalogue's; its members are the gates, choose another name"
        )
    return _check_length("family", name, MAX_NAME_LENGTH)


def _parse_gate_spec(spec: pb.GateSpec, catalogue: Catalogue) -> GateRule:
    identifier = _check_length("spec.id", spec.id, 64)
    if identifier in catalogue.gates:
        raise InvalidArgumentError(
            "spec.id", f"{identifier} is in the fleet's catalogue; set gate_id instead"
        )
    if not 1 <= len(set(spec.metrics)) == len(spec.metrics) <= 16:
        raise InvalidArgumentError(
            "spec.metrics", f"{len(spec.metrics)} metrics; 1 to 16 different ones are allowed"
        )
    statistic = _STATISTICS.get(spec.statistic)
    direction = _DIRECTIONS.get(spec.direction)
    if statistic is None or direction is None:
        raise InvalidArgumentError("spec", "statistic or direction is unknown; set both")
    bounds = spec.HasField("at_most") + spec.HasField("at_least")
    if bounds != (statistic == "share"):
        raise InvalidArgumentError(
            "spec", "bounds do not match; a share, and only a share, has at_most or at_least"
        )
    if spec.min_items < 2 or spec.min_seeds < 1:
        raise InvalidArgumentError("spec", "min_items or min_seeds is too small; at least 2 and 1")
    try:
        return GateRule(
            id=identifier,
            metrics=tuple(spec.metrics),
            statistic=statistic,
            direction=direction,
            target=_check_finite("spec.target", spec.target),
            margin=_check_finite("spec.margin", spec.margin),
            min_items=spec.min_items,
            min_seeds=spec.min_seeds,
            unit=_check_length("spec.unit", spec.unit or ITEM, MAX_NAME_LENGTH),
            at_most=_optional_bound(spec, "at_most"),
            at_least=_optional_bound(spec, "at_least"),
        )
    except GateFormatError as err:
        raise InvalidArgumentError("spec", str(err)) from err


def _optional_bound(spec: pb.GateSpec, name: Literal["at_most", "at_least"]) -> float | None:
    return _check_finite(f"spec.{name}", getattr(spec, name)) if spec.HasField(name) else None


def _parse_lineage(lineage: pb.Lineage) -> Lineage:
    return Lineage(
        mission_digest=_check_length(
            "lineage.mission_digest", lineage.mission_digest, MAX_DIGEST_LENGTH
        ),
        baseline_digest=_check_length(
            "lineage.baseline_digest", lineage.baseline_digest, MAX_DIGEST_LENGTH
        ),
        data_digest=_check_length("lineage.data_digest", lineage.data_digest, MAX_DIGEST_LENGTH),
        command=_check_length("lineage.command", lineage.command, MAX_COMMAND_LENGTH),
    )


def _check_length(field: str, value: str, limit: int) -> str:
    if not 1 <= len(value) <= limit:
        raise InvalidArgumentError(field, f"has {len(value)} characters; 1 to {limit} are allowed")
    return value


def _check_finite(field: str, value: float) -> float:
    if not (math.isfinite(value) and abs(value) <= LARGEST_SCORE):
        raise InvalidArgumentError(
            field, f"is {value:g}; it must be a finite number within {LARGEST_SCORE:g}"
        )
    return value

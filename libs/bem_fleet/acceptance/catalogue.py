"""The gates and the metrics that they are made of, read from ``gates.yaml`` and checked."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from bem.errors import GateFormatError
from jsonschema import Draft202012Validator

_FOLDER = Path(__file__).parent
CENTRAL_GATES = _FOLDER / "gates.yaml"

GateStatistic = Literal["difference", "ratio", "mean", "share"]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class MetricDefinition:
    """What one item's score means and which values it can have.

    Attributes:
        name: Its key.
        means: One item's score in words, with unit.
        minimum: Smallest possible score, None for no bound.
        maximum: Largest possible score, None for no bound.
        version: Raised when the meaning changes.
    """

    name: str
    means: str
    minimum: float | None = None
    maximum: float | None = None
    version: int = 1


@dataclass(frozen=True)
class GateRule:
    """What a verdict needs to know of a gate.

    Attributes:
        id: Such as ``A.em_f1``.
        metrics: All of them must clear.
        statistic: Computed of each metric; ``mean`` and ``share`` need no baseline.
        direction: Which side is good.
        target: The estimate must reach it, in the statistic's unit.
        margin: The 95 % interval must lie beyond it.
        at_most: For a share: an item counts when its score is at most this.
        at_least: For a share: an item counts when its score is at least this.
        min_items: Fewest items.
        min_seeds: Fewest training seeds.
    """

    id: str
    metrics: tuple[str, ...]
    statistic: GateStatistic
    direction: Direction
    target: float
    margin: float
    min_items: int
    min_seeds: int
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        """Refuse a target on the wrong side of the margin: the interval would decide alone.

        Raises:
            GateFormatError: It is.
        """
        sign = 1 if self.direction == "higher" else -1
        if sign * (self.target - self.margin) < 0:
            raise GateFormatError(
                f"gate {self.id}: target {self.target:g} is short of its margin {self.margin:g} "
                f"({self.direction} is better)"
            )


@dataclass(frozen=True)
class Gate:
    """One of the fleet's own gates.

    Attributes:
        rule: What its verdict is made by.
        mission: Whose claim it is.
        phase: Deployment phase, 1 to 4.
        claim: The sentence that a pass makes true.
        baseline: What the mission is compared with; None for mean and share.
        report: The evaluation report, relative to the repository.
        command: What makes the report; None while nothing does.
    """

    rule: GateRule
    mission: str
    phase: int
    claim: str
    baseline: str | None
    report: str
    command: str | None


@dataclass(frozen=True)
class Catalogue:
    """All metrics and gates, in the order of the file."""

    metrics: Mapping[str, MetricDefinition]
    gates: Mapping[str, Gate]

    def of_phase(self, phase: int | None) -> list[Gate]:
        """Return the gates of one phase; of all for None."""
        return [gate for gate in self.gates.values() if phase in (None, gate.phase)]


def load_catalogue(path: Path = CENTRAL_GATES) -> Catalogue:
    """Read and check a file of gates.

    Raises:
        GateFormatError: It is no YAML, breaks the schema (the place is named), repeats an id, or
            a gate names a metric that the file does not declare.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as err:
        raise GateFormatError(f"{path.name}: {err}") from err
    check_schema(found, "gates.schema.json", path.name)
    metrics = {name: MetricDefinition(name, **entry) for name, entry in found["metrics"].items()}
    gates = [_parse_gate(entry) for entry in found["gates"]]
    for identifier, times in Counter(gate.rule.id for gate in gates).items():
        if times > 1:
            raise GateFormatError(f"{path.name}: gate {identifier} is there {times} times")
    for gate in gates:
        for unknown in set(gate.rule.metrics) - set(metrics):
            raise GateFormatError(f"{path.name}: gate {gate.rule.id}: no metric {unknown!r}")
    return Catalogue(metrics, {gate.rule.id: gate for gate in gates})


def check_schema(found: Any, schema: str, name: str) -> None:
    """Check ``found`` against a JSON schema of this folder.

    Args:
        found: Parsed JSON or YAML.
        schema: File name of the schema.
        name: What an error calls ``found``.

    Raises:
        GateFormatError: It breaks the schema; the text names the first place.
    """
    validator = Draft202012Validator(json.loads((_FOLDER / schema).read_text()))
    if first := next(validator.iter_errors(found), None):
        raise GateFormatError(f"{name}: {first.json_path}: {first.message[:200]}")


def _parse_gate(entry: Mapping[str, Any]) -> Gate:
    rule = GateRule(
        id=entry["id"],
        metrics=tuple(entry["metrics"]),
        statistic=entry["statistic"],
        direction=entry["direction"],
        target=entry["target"],
        margin=entry["margin"],
        min_items=entry["min_items"],
        min_seeds=entry["min_seeds"],
        at_most=entry.get("at_most"),
        at_least=entry.get("at_least"),
    )
    names = ("mission", "phase", "claim", "baseline", "report", "command")
    return Gate(rule=rule, **{name: entry[name] for name in names})

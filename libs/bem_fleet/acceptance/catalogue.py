"""Catalogue of acceptance gates and metrics, read from YAML files and validated.

The central ``gates.yaml`` declares the missions, the metrics and the gates. A mission may keep its
own gates in ``services/<name>/gates.yaml`` in the same format; they are merged with the central
ones. Missions, metrics and gate ids are unique over all files.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from bem.errors import GateFormatError
from jsonschema import Draft202012Validator

from bem_fleet.stats.effects import required_items
from bem_fleet.stats.item_clusters import MIN_CLUSTERS

_FOLDER = Path(__file__).parent
CENTRAL_GATES = _FOLDER / "gates.yaml"
SERVICES = _FOLDER.parent / "services"

GateStatistic = Literal["difference", "ratio", "mean", "share"]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class MetricDefinition:
    """Meaning and range of the score of one item.

    Attributes:
        name: Key of the metric.
        description: Score of one item in words, with its unit.
        minimum: Smallest possible score.
        maximum: Largest possible score.
        version: Version of the meaning, 1 or more; reports of an older version do not count.
    """

    name: str
    description: str
    minimum: float
    maximum: float
    version: int = 1

    @property
    def width(self) -> float:
        """Largest possible difference of two scores."""
        return self.maximum - self.minimum


@dataclass(frozen=True)
class PowerPlan:
    """Power calculation of a gate on a difference.

    Attributes:
        expected: True value of the statistic that a sound mission is expected to have.
        deviation: Standard deviation of an item's paired difference.
        power: Probability that such a mission's interval clears the margin, between 0 and 1.
        design_effect: Variance of the mean relative to that of independent items, 1 or more.
    """

    expected: float
    deviation: float
    power: float
    design_effect: float

    def required_items(self, margin: float) -> int:
        """Return the number of items at which the 95 % interval clears the margin.

        Args:
            margin: Value that the interval must exclude.
        """
        independent = required_items(
            abs(self.expected - margin), self.deviation, power=self.power, alpha=0.05
        )
        return math.ceil(self.design_effect * independent)


@dataclass(frozen=True)
class GateRule:
    """Statistical rule of a gate.

    Attributes:
        id: Id of the gate, ``<prefix>.<name>`` (``A.em_f1``).
        metrics: Metrics; each of them must meet the rule.
        statistic: Statistic of each metric; ``mean`` and ``share`` need no baseline.
        direction: Whether ``higher`` or ``lower`` values are better.
        target: Value that the estimate must reach, in the unit of the statistic.
        margin: Value that the 95 % interval must exclude, in the unit of the statistic.
        min_items: Smallest number of items.
        min_seeds: Smallest number of training seeds.
        at_most: For a share: an item counts when its score is at most this.
        at_least: For a share: an item counts when its score is at least this.
        unit: Unit of resampling that the report must name, ``item`` or what a cluster is.
        min_clusters: Smallest number of clusters; with unit ``item`` it does not apply.
        min_baseline: Smallest mean of the baseline: a suite that the baseline hardly answers
            cannot show a loss.
        power: Power calculation that ``min_items`` follows; None where there is none.
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
    unit: str = "item"
    min_clusters: int = MIN_CLUSTERS
    min_baseline: float | None = None
    power: PowerPlan | None = None

    def __post_init__(self) -> None:
        """Reject limits that no data could meet, or that would make the interval decide alone.

        Raises:
            GateFormatError: The limits of a share lie outside 0 to 1, or the target does not
                reach the margin.
        """
        for name in ("target", "margin"):
            value = getattr(self, name)
            if self.statistic == "share" and not 0 <= value <= 1:
                raise GateFormatError(
                    f"gate {self.id}: {name} is {value:g}; for a share it lies between 0 and 1"
                )
        sign = 1 if self.direction == "higher" else -1
        if sign * (self.target - self.margin) < 0:
            raise GateFormatError(
                f"gate {self.id}: target {self.target:g} is short of its margin {self.margin:g} "
                f"({self.direction} is better)"
            )
        if self.power and self.min_items < (needed := self.power.required_items(self.margin)):
            raise GateFormatError(
                f"gate {self.id}: min_items is {self.min_items}; its power calculation gives "
                f"{needed}"
            )


@dataclass(frozen=True)
class Gate:
    """Acceptance gate of a mission.

    Attributes:
        rule: Statistical rule.
        mission: Name of the mission.
        phase: Deployment phase, 1 to 4.
        claim: Statement that a pass confirms.
        baseline: System that the mission is compared with; None for mean and share.
        report: Path of the evaluation report, relative to the repository.
        command: Command that writes the report; None while none exists.
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
    """All missions, metrics and gates, in the order of the files.

    Attributes:
        metrics: Metric definitions by name.
        gates: Gates by id.
        missions: Mission names by the id prefix of their gates.
    """

    metrics: Mapping[str, MetricDefinition]
    gates: Mapping[str, Gate]
    missions: Mapping[str, str] = field(default_factory=dict)

    def of_phase(self, phase: int | None) -> list[Gate]:
        """Return the gates of one phase, or of all phases for None."""
        return [gate for gate in self.gates.values() if phase in (None, gate.phase)]


def load_catalogue(path: Path = CENTRAL_GATES, *, services: Path | None = None) -> Catalogue:
    """Read a file of gates, merge the missions' own files and validate the result.

    Args:
        path: File of gates.
        services: Folder whose ``*/gates.yaml`` are merged. None means the installed services with
            the central file, and no further files with any other ``path``.

    Raises:
        GateFormatError: A file is not YAML or breaks the schema (the text names the place), a
            mission, metric or gate id is declared twice, or a gate names an undeclared metric or
            mission.
    """
    if services is None and path == CENTRAL_GATES:
        services = SERVICES
    files = [path, *(sorted(services.glob("*/gates.yaml")) if services else [])]
    documents = {file: _read_gates_file(file) for file in files}
    missions = _merge_missions(documents)
    metrics: dict[str, MetricDefinition] = {}
    gates: dict[str, Gate] = {}
    for file, document in documents.items():
        for name, entry in document.get("metrics", {}).items():
            if name in metrics:
                raise GateFormatError(f"{_label(file)}: metric {name} is declared in another file")
            metrics[name] = MetricDefinition(name, **entry)
            if metrics[name].width <= 0:
                raise GateFormatError(
                    f"{_label(file)}: metric {name}: maximum is {metrics[name].maximum:g}; it must "
                    f"be above the minimum, {metrics[name].minimum:g}"
                )
        for gate in map(_parse_gate, document["gates"]):
            if gate.rule.id in gates:
                raise GateFormatError(f"{_label(file)}: gate {gate.rule.id} is declared twice")
            gates[gate.rule.id] = gate
    _check_references(gates.values(), metrics, missions)
    return Catalogue(metrics, gates, missions)


def check_schema(document: Any, schema: str, name: str) -> None:
    """Validate a document against a JSON schema of this folder.

    Args:
        document: Parsed JSON or YAML.
        schema: File name of the schema.
        name: Name of the document for error messages.

    Raises:
        GateFormatError: The document breaks the schema; the text names the first place.
    """
    validator = Draft202012Validator(json.loads((_FOLDER / schema).read_text()))
    if first := next(validator.iter_errors(document), None):
        raise GateFormatError(f"{name}: {first.json_path}: {first.message[:200]}")


def _read_gates_file(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = yaml.load(path.read_text(), yaml.CSafeLoader)
    except (OSError, yaml.YAMLError) as err:
        raise GateFormatError(f"{_label(path)}: {err}") from err
    check_schema(document, "gates.schema.json", _label(path))
    return document


def _label(path: Path) -> str:
    """Return the file's name with its folder: several files are called gates.yaml."""
    return f"{path.parent.name}/{path.name}"


def _merge_missions(documents: Mapping[Path, Mapping[str, Any]]) -> dict[str, str]:
    missions: dict[str, str] = {}
    for path, document in documents.items():
        for prefix, name in document["missions"].items():
            if prefix in missions or name in missions.values():
                raise GateFormatError(
                    f"{_label(path)}: mission {prefix}: {name} is declared twice; "
                    f"declared before: {missions}"
                )
            missions[prefix] = name
    return missions


def _check_references(
    gates: Iterable[Gate], metrics: Mapping[str, MetricDefinition], missions: Mapping[str, str]
) -> None:
    for gate in gates:
        identifier = gate.rule.id
        prefix = identifier.partition(".")[0]
        if missions.get(prefix) != gate.mission:
            raise GateFormatError(
                f"gate {identifier}: mission {gate.mission!r} is not declared for prefix "
                f"{prefix!r}; declared: {dict(missions)}"
            )
        for unknown in set(gate.rule.metrics) - set(metrics):
            raise GateFormatError(f"gate {identifier}: no metric {unknown!r}; declare it")


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
        unit=entry.get("unit", "item"),
        min_clusters=entry.get("min_clusters", MIN_CLUSTERS),
        min_baseline=entry.get("min_baseline"),
        power=PowerPlan(**entry["power"]) if "power" in entry else None,
    )
    names = ("mission", "phase", "claim", "baseline", "report", "command")
    return Gate(rule=rule, **{name: entry[name] for name in names})

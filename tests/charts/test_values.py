"""Values: each explained, each in the schema, and a wrong one stopped with a clear word."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.charts.rendering import CHART, ROOT, VALUE_SETS, render

SERVICES = sorted(p.parent.name for p in (ROOT / "services").glob("*/__main__.py"))
# Free-form maps: their keys are names, not settings of the chart.
_MAPS = {"services", "resourceProfiles", "resources", "settings"}


def explained_keys() -> Iterator[tuple[int, str]]:
    """Yield line and key of every leaf in values.yaml that the chart itself defines."""
    path: list[str] = []
    for number, line in enumerate((CHART / "values.yaml").read_text().splitlines()):
        text = line.strip()
        if not text or text.startswith("#") or ":" not in text:
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        path = [*path[:depth], text.partition(":")[0]]
        if not _MAPS & set(path[:-1]) and text.partition(":")[2].strip():
            yield number, ".".join(path)


def test_every_value_is_explained() -> None:
    """Each value has a line that says what it does."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    silent = []
    for number, key in explained_keys():
        above = number - 1
        while lines[above].strip().startswith("# @"):
            above -= 1
        if not lines[above].strip().startswith("# --"):
            silent.append(key)

    assert not silent


def test_schema_and_values_name_the_same_keys() -> None:
    """No value is missing from the schema, none in the schema lacks a default."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    service = schema["definitions"]["service"]["properties"]

    jsonschema.Draft7Validator.check_schema(schema)
    assert set(schema["properties"]) - {"global"} == set(values)
    assert set(service) == set(values["defaults"])


def test_no_object_takes_unknown_keys() -> None:
    """Everywhere in the schema a misspelt key is refused."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(node: Any, where: str) -> Iterator[str]:
        if isinstance(node, dict):
            if "properties" in node and node.get("additionalProperties") is not False:
                yield where
            for key, value in node.items():
                yield from walk(value, f"{where}/{key}")

    assert not list(walk(schema, ""))


def test_every_service_has_its_block() -> None:
    """A service of the tree is a service of the chart, its sidecar apart."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert {*values["services"], values["safetySidecar"]["image"]["name"]} >= set(SERVICES)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("bem_fleet.services.router.replica=2", "additional properties 'replica' not allowed"),
        (
            "bem_fleet.services.router.priority=urgent",
            "must be one of 'critical', 'high', 'medium', 'low'",
        ),
        (
            "bem_fleet.services.router.profile=h200",
            "resourceProfiles has: cpu, nvidia-h100, nvidia-rtx4090",
        ),
        ("bem_fleet.services.router.port=0", "at '/services/router/port'"),
        ("bem_fleet.services.router.model.source=volume", "set model."),
        (
            "bem_fleet.services.validation.enabled=false",
            "bem_fleet.services.validation.enabled is false",
        ),
        (
            "bem_fleet.services.router.tls.existingSecret=edge",
            "only http services have a certificate",
        ),
        ("bem_fleet.services.orchestrator.port=0", "at '/services/orchestrator/port'"),
        ("bem_fleet.services.router.healthService=", "bem_fleet.services.router.healthService"),
        (
            "bem_fleet.services.router.settings.ADDRESS=0.0.0.0:1",
            "settings.ADDRESS of router is the chart's",
        ),
        ("redis.embedded=false", "set redis.external.url or redis.external.existingSecret"),
        ("redis.auth.password=a b", "at '/redis/auth/password'"),
        ("redis.persistence.size=4GB", "at '/redis/persistence/size'"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
    ],
)
def test_wrong_value_stops_with_a_clear_word(tmp_path: Path, setting: str, said: str) -> None:
    """A wrong value ends `helm install` with a text that names it."""
    empty = tmp_path / "values.yaml"
    empty.write_text("{}\n")

    with pytest.raises(ValueError, match="Error") as caught:
        render(empty, setting)

    assert said in str(caught.value)


def test_passwords_are_made_once_per_installation(tmp_path: Path) -> None:
    """Without a cluster to ask, each rendering makes a password of its own: none is built in."""
    empty = tmp_path / "values.yaml"
    empty.write_text("{}\n")

    assert render(empty) != render(empty)


def test_value_sets_are_all_reviewed() -> None:
    """Each set of values has its golden file and no golden file is left over."""
    golden = {p.name for p in (Path(__file__).parent / "golden").glob("*.yaml")}

    assert golden == {v.name.replace("-values", "") for v in VALUE_SETS}

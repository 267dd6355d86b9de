"""Values of the chart: each is explained, in the schema, and a wrong one is refused by name."""

import json
import re
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
    """Each value has a comment with its meaning."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    unexplained = []
    for number, key in explained_keys():
        above = number - 1
        while lines[above].strip().startswith("# @"):
            above -= 1
        if not lines[above].strip().startswith("# --"):
            unexplained.append(key)

    assert not unexplained


def test_schema_and_values_name_the_same_keys() -> None:
    """Every value is in the schema, and every key of the schema has a default."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    service = schema["definitions"]["service"]["properties"]

    jsonschema.Draft7Validator.check_schema(schema)
    assert set(schema["properties"]) - {"global"} == set(values)
    assert set(service) == set(values["defaults"])


def test_every_value_is_read_by_a_template() -> None:
    """A value that no template names would be set without any effect; open maps are read whole."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    folder = CHART / "templates"
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    whole = {"resources", "labels", "nodeSelector", "values"}
    whole |= {"monitoringNamespace", "tracingNamespace"}

    def leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if isinstance(node, dict) and node and not (path and path[-1] in whole):
            for key, value in node.items():
                yield from leaves(value, (*path, key))
        else:
            yield path

    closed = {key: values[key] for key in values.keys() - {"services", "resourceProfiles"}}
    unread = {
        ".".join(path)
        for path in leaves(closed, ())
        if not re.search(rf"\.{re.escape(path[-1])}\b", text)
    }

    assert not unread


def test_no_object_takes_unknown_keys() -> None:
    """Every object of the schema refuses unknown keys."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(node: Any, where: str) -> Iterator[str]:
        if isinstance(node, dict):
            if "properties" in node and node.get("additionalProperties") is not False:
                yield where
            for key, value in node.items():
                yield from walk(value, f"{where}/{key}")

    assert not list(walk(schema, ""))


def test_every_service_has_its_block() -> None:
    """Each service of the tree is a service of the chart; the sidecar has a block of its own."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert {*values["services"], values["safetySidecar"]["image"]["name"]} >= set(SERVICES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("services.router.replica=2", "additional properties 'replica' not allowed"),
        (
            "services.router.priority=urgent",
            "must be one of 'critical', 'high', 'medium', 'low'",
        ),
        (
            "services.router.profile=h200",
            "resourceProfiles has: cpu, nvidia-h100, nvidia-rtx4090",
        ),
        ("services.router.port=0", "at '/services/router/port'"),
        ("services.router.model.source=volume", "set model."),
        (
            "services.validation.enabled=false",
            "services.validation.enabled is false",
        ),
        (
            "services.router.tls.existingSecret=edge",
            "only http services have a certificate of their own",
        ),
        ("services.orchestrator.port=0", "at '/services/orchestrator/port'"),
        ("services.router.healthService=", "services.router.healthService"),
        (
            "services.router.settings.ADDRESS=0.0.0.0:1",
            "settings.ADDRESS of router is set by the chart",
        ),
        ("redis.embedded=false", "set redis.external.url or redis.external.existingSecret"),
        ("redis.auth.password=a b", "at '/redis/auth/password'"),
        ("redis.persistence.size=4GB", "at '/redis/persistence/size'"),
        (r"podLabels.helm\.sh/chart=x", "at '/podLabels/helm.sh~1chart'"),
        ("networkPolicy.dnsPorts={0}", "at '/networkPolicy/dnsPorts/0'"),
        ("access.anonymousUsers=maybe", "at '/access/anonymousUsers'"),
        ("services.gateway.settings.KEYS_FILE=/tmp/k", "settings.KEYS_FILE of gateway is set"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
    ],
)
def test_wrong_value_is_refused_by_name(tmp_path: Path, setting: str, message: str) -> None:
    """A wrong value stops `helm install` with a message that names it."""
    empty = tmp_path / "values.yaml"
    empty.write_text("{}\n")

    with pytest.raises(ValueError, match="Error") as caught:
        render(empty, setting)

    assert message in str(caught.value)


def test_value_sets_are_all_reviewed() -> None:
    """Each set of values has its golden file, and every golden file has its set of values."""
    golden = {p.name for p in (Path(__file__).parent / "golden").glob("*.yaml")}

    assert golden == {v.name.replace("-values", "") for v in VALUE_SETS}

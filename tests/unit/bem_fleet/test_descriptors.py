"""Service descriptors: every field is checked, and what they name exists."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from bem_fleet.checkout import ROOT
from bem_fleet.described_monitoring import Panel
from bem_fleet.descriptors import (
    Descriptor,
    DescriptorError,
    expand,
    load_descriptors,
    missions,
    read_descriptor,
    setting_texts,
)

SERVICES = load_descriptors()
MINIMAL: dict[str, Any] = {
    "name": "sixth",
    "kind": "mission",
    "summary": "a mission",
    "proto": "bemfleet.sixth.v1.SixthService",
    "port": 50061,
    "metricsPort": 9467,
}


def write(root: Path, **changes: Any) -> Path:
    """Write a descriptor with changed fields below ``root/services`` and return its file."""
    content = {**MINIMAL, **changes}
    file = root / "services" / "sixth" / "service.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def test_every_service_has_a_descriptor() -> None:
    """No folder of services is missing, and each mission comes before the control services."""
    folders = {file.parent.name for file in (ROOT / "services").glob("*/__main__.py")}

    assert {one.name for one in SERVICES} == folders
    assert [one.kind for one in SERVICES] == sorted(
        (one.kind for one in SERVICES), key=["mission", "sidecar", "control"].index
    )


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
def test_descriptor_names_what_exists(service: Descriptor) -> None:
    """Every setting is one of the service's class, and lock and proto exist."""
    module = import_module(f"bem_fleet.services.{service.name}.settings")
    known = getattr(module, f"{service.name.capitalize()}Settings").model_fields
    helpers = [helper.settings for helper in service.local.helpers]
    chart = service.chart.get("settings", {})
    for settings in (service.settings, service.local.settings, chart, *helpers):
        for key in settings:
            assert key.lower() in known, f"{service.name}: {key}"
    assert (ROOT / "requirements" / f"{service.image_lock}.lock").is_file()
    if service.proto:
        package = service.proto.rpartition(".")[0]
        folder = ROOT / "protos" / package.replace(".", "/")
        text = "".join(file.read_text() for file in folder.glob("*.proto"))
        assert f"service {service.proto.rpartition('.')[2]} {{" in text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"port": 0}, r"services/sixth/service\.yaml: port: .*greater than or equal to 1"),
        ({"kind": "demon"}, "kind: .*'mission', 'control' or 'sidecar'"),
        ({"sidekick": 1}, "sidekick: Extra inputs are not permitted"),
        ({"summary": "Ends with a stop."}, "summary: "),
        ({"settings": {"lower": 1}}, "settings.lower"),
        ({"name": "other"}, "name: 'other' is not the folder's name 'sixth'"),
        ({"metricsPort": None}, "proto and metricsPort: a mission needs both"),
        ({"gates": "gates.yaml"}, "gates: there is no file 'gates.yaml' beside it"),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    """The error names file, field and what is wrong."""
    with pytest.raises(DescriptorError, match=problem):
        read_descriptor(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"clients": ["gatway"]}, "clients: 'gatway' is no service; known are"),
        ({"settings": {"X": "${nowhere}"}}, "settings: 'nowhere' is no service"),
    ],
)
def test_unknown_service_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    """Clients and references must be services."""
    write(tmp_path, **changes)
    with pytest.raises(DescriptorError, match=problem):
        load_descriptors(tmp_path)


def test_two_services_cannot_have_one_port(tmp_path: Path) -> None:
    """The error names the port and the service that has it."""
    file = write(tmp_path)
    other = tmp_path / "services" / "seventh" / "service.yaml"
    other.parent.mkdir()
    other.write_text(file.read_text().replace("name: sixth", "name: seventh"))

    with pytest.raises(DescriptorError, match="50061 is a port of seventh already"):
        load_descriptors(tmp_path)


def test_references_are_expanded() -> None:
    """Each reference is resolved by its name; the question mark makes it optional."""
    text = expand("a ${router} b ${orchestrator?}", lambda name, optional: f"{name}:{optional}")

    assert text == "a router:False b orchestrator:True"


def test_panel_has_exactly_one_query() -> None:
    """A rate, a gauge, a quantile or PromQL."""
    assert Panel(title="t", rate="c_total", by=("pod",)).expression == (
        "sum by (pod) (rate(c_totalSELECTOR[5m]))"
    )
    assert Panel(title="t", p95="s_seconds").line_legend == "p95"
    with pytest.raises(ValueError, match="exactly one"):
        Panel(title="t")


def test_settings_become_text() -> None:
    """Booleans are lower case, as the settings classes read them."""
    assert setting_texts({"A": True, "B": 2, "C": "x"}) == {"A": "true", "B": "2", "C": "x"}


def test_router_is_a_mission_behind_a_sidecar() -> None:
    """Missions have a sidecar, control services do not."""
    assert "router" in [one.name for one in missions(SERVICES)]
    assert all(one.has_sidecar == (one.kind == "mission") for one in SERVICES)

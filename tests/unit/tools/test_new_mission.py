"""Scaffold of a mission."""

import ast
from pathlib import Path

import pytest
from bem_fleet.descriptors import load_descriptors, read_descriptor

from tools.new_mission import NewMissionError, check_name, free_ports, write_files

PRESENT = load_descriptors()


@pytest.mark.parametrize("name", ["", "Sixth", "six-th", "6th", "router", "fleet", "x" * 31])
def test_unusable_name_is_named(name: str) -> None:
    """Malformed, reserved and present names are refused."""
    with pytest.raises(NewMissionError, match="name: "):
        check_name(name, [one.name for one in PRESENT])


def test_ports_are_free() -> None:
    """Neither port belongs to a service that exists."""
    used = {one.port for one in PRESENT} | {one.metrics_port for one in PRESENT}
    port, metrics_port = free_ports(PRESENT)

    assert port not in used
    assert metrics_port not in used
    assert port != metrics_port


def test_files_are_complete(tmp_path: Path) -> None:
    """Every file parses, no place holder is left, and each module has a test by its name."""
    files = write_files(tmp_path, "sixth", PRESENT)
    service = tmp_path / "services" / "sixth"
    modules = {file.stem for file in service.glob("*.py")} - {"__init__", "__main__"}
    tests = {file.stem for file in (tmp_path / "tests/unit/services/sixth").glob("test_*.py")}
    for file in files:
        text = file.read_text()
        assert "$name" not in text
        assert "${N" not in text
        if file.suffix == ".py":
            ast.parse(text)

    assert tests == {f"test_{module}" for module in modules}
    assert read_descriptor(service / "service.yaml").proto == "bemfleet.sixth.v1.SixthService"
    assert (tmp_path / "protos/bemfleet/sixth/v1/sixth.proto").is_file()

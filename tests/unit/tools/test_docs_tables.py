"""Documentation tables."""

import pytest
from bem_fleet.descriptors import load_descriptors

from tools.docs_tables import metrics_table, process_table, settings_table, with_table

SERVICES = {one.name: one for one in load_descriptors()}


def test_table_is_replaced_between_its_markers() -> None:
    """What stands around the markers stays; a second run changes nothing."""
    once = with_table("# x\n", "settings", "| a |\n", "## Settings")
    again = with_table(once, "settings", "| b |\n", "## Settings")

    assert once.startswith("# x\n\n## Settings\n\n<!-- settings: generated")
    assert again == once.replace("| a |", "| b |")
    with pytest.raises(ValueError, match="has no line"):
        with_table("# x\n", "processes", "| a |\n")


def test_settings_come_from_fields_and_docstrings() -> None:
    """Every field has a row with variable and default, inherited ones included."""
    table = settings_table(SERVICES["validation"])

    assert "| `BEM_VALIDATION_ADDRESS` | `127.0.0.1:50091` |" in table
    assert "`BEM_VALIDATION_DRAIN_S` | `30.0`" in table
    assert not [line for line in table.splitlines() if line.endswith("|  |")]


def test_metrics_come_from_the_modules() -> None:
    """Name, type and help text, sorted by name."""
    rows = metrics_table(SERVICES["router"]).splitlines()[2:]

    assert any(row.startswith("| `bem_router_requests_running` | gauge | ") for row in rows)
    assert rows == sorted(rows)


def test_every_port_is_in_the_process_table() -> None:
    """Missions, sidecars, scorer, control services and Redis are listed with their variables."""
    table = process_table(tuple(SERVICES.values()))

    for text in ("8080 (`GATEWAY_PORT`)", "50051 (`ROUTER_PORT`)", "router-sidecar", "6379"):
        assert text in table

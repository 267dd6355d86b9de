"""Chart values and alerts from descriptors."""

import pytest
import yaml
from bem_fleet.described_monitoring import Recording
from bem_fleet.descriptors import Descriptor, load_descriptors

from tools.chart_values import BEGIN, END, rules, service_block, services_block, with_block

SIXTH = Descriptor.model_validate(
    {
        "name": "sixth",
        "kind": "mission",
        "summary": "a mission",
        "proto": "bemfleet.sixth.v1.SixthService",
        "port": 50061,
        "metricsPort": 9467,
        "settings": {"ADAPTER_FOLDER": "${adapters}", "VALIDATION_ADDRESS": "${validation?}"},
        "chart": {"model": {"source": "image"}, "settings": {"THREADS": 2}},
        "clients": ["gateway"],
        "priority": "medium",
        "alerts": [
            {
                "alert": "BemSixth",
                "expr": "up",
                "severity": "warning",
                "summary": "s",
                "description": "d",
            }
        ],
    }
)


def test_block_of_a_mission() -> None:
    """References become templates, chart settings are merged, and defaults are left out."""
    assert service_block(SIXTH) == {
        "port": 50061,
        "sidecar": True,
        "healthService": "bemfleet.sixth.v1.SixthService",
        "settings": {
            "ADAPTER_FOLDER": "/app/adapters",
            "VALIDATION_ADDRESS": '{{ include "fleet.addressIfEnabled" (list . "validation") }}',
            "THREADS": 2,
        },
        "clients": ["gateway"],
        "priority": "medium",
        "model": {"source": "image"},
    }


def test_blocks_are_yaml_without_the_sidecar() -> None:
    """The text between the markers reads back as the blocks."""
    found = yaml.safe_load(services_block((*load_descriptors(), SIXTH)))

    assert found["sixth"] == service_block(SIXTH)
    assert "safety" not in found


def test_alert_becomes_a_rule() -> None:
    """Severity is a label; summary, description and the link to the runbook are annotations."""
    (rule,) = yaml.safe_load(rules((SIXTH,)))["groups"][0]["rules"]

    assert rule["labels"] == {"severity": "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert "for" not in rule


def test_recordings_come_before_alerts() -> None:
    """An alert of one service may read what another records in the same evaluation."""
    recording = Recording(record="namespace:bem_x:rate5m", expr="rate(bem_x_total[5m])")
    recorder = SIXTH.model_copy(update={"name": "seventh", "recordings": (recording,)})
    first, *others = yaml.safe_load(rules((SIXTH, recorder)))["groups"][0]["rules"]

    assert first == {"record": "namespace:bem_x:rate5m", "expr": "rate(bem_x_total[5m])"}
    assert all("alert" in one for one in others)


def test_missing_marker_is_named() -> None:
    """Without its markers values.yaml is not touched."""
    assert with_block(f"a\n{BEGIN}\nold\n{END}\nb\n", "new\n") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    with pytest.raises(ValueError, match="has no line"):
        with_block("services: {}\n", "new\n")

"""Canary specification: its defaults are the CRD's, its id is of what it tries."""

from pathlib import Path

import pytest
import yaml
from bem_fleet.services.orchestrator.canary.spec import canary_digest, read_canary
from bem_fleet.services.orchestrator.canary_analysis import analysis_request
from bem_fleet.services.orchestrator.local.mission_schema import MissionSchema
from bem_fleet.services.validation.canary_request_parsing import parse_terms

from tests.unit.services.orchestrator.missions import CRD, SCHEMA, canary_spec


def test_a_changed_default_changes_both_services(tmp_path: Path) -> None:
    """A default of the CRD reaches the orchestrator's spec and validation's terms."""
    crd = yaml.safe_load(CRD.read_text())
    version = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = version["properties"]["spec"]["properties"]["canary"]["properties"]
    fields["readySeconds"]["default"] = 77
    fields["steps"]["default"] = [{"weight": 3, "seconds": 9}]
    analysis = fields["analysis"]["properties"]
    analysis["errorMargin"]["default"] = 0.125
    analysis["maxPairs"]["default"] = 321
    changed = tmp_path / "missions.yaml"
    changed.write_text(yaml.safe_dump(crd))

    terms = []
    for path in (CRD, changed):
        canary = MissionSchema(path).fill_defaults({"canary": {"image": "i"}})["canary"]
        spec = read_canary(canary)
        assert spec is not None
        terms.append((spec, parse_terms(analysis_request(spec.analysis).terms)))
    (old_spec, old_terms), (new_spec, new_terms) = terms

    assert (new_spec.ready_s, new_spec.steps[0].weight, new_spec.steps[0].hold) == (77, 3, False)
    assert (new_terms.error_margin, new_terms.max_pairs) == (0.125, 321)
    assert (old_spec.ready_s, old_terms.error_margin, old_terms.max_pairs) != (77, 0.125, 321)
    assert new_terms.latency_margin == old_terms.latency_margin


@pytest.mark.parametrize("missing", ["replicas", "shadow", "readySeconds", "steps", "analysis"])
def test_a_default_is_stated_nowhere_else(missing: str) -> None:
    """A canary that nobody completed cannot be read."""
    canary = dict(SCHEMA.fill_defaults({"canary": {"image": "i"}})["canary"])
    del canary[missing]

    with pytest.raises(KeyError, match=missing):
        read_canary(canary)


def test_the_id_is_of_what_is_tried() -> None:
    """Image, adapter, variables and attempt make another canary; steps and terms do not."""
    first = canary_spec(image="i")
    same = canary_spec(image="i", shadow=10, steps=[{"weight": 1}], analysis={"alpha": 0.01})
    others = [
        canary_spec(image="j"),
        canary_spec(model="i"),
        canary_spec(image="i", env={"A": "1"}),
        canary_spec(image="i", attempt=1),
    ]

    assert same.id == first.id == canary_digest({"image": "i"})
    assert len({first.id, *(one.id for one in others)}) == 5


def test_probes_go_to_validation_as_they_are() -> None:
    """Prompt and answers of the CRD are the proto's fields."""
    spec = canary_spec(
        model="m", analysis={"probes": [{"prompt": "1+1?", "answers": ["2", "two"]}]}
    )
    request = analysis_request(spec.analysis)

    assert [(p.prompt, list(p.answers)) for p in request.probes] == [("1+1?", ["2", "two"])]

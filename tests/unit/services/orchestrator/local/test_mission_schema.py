"""Mission schema: what an API server does with a specification, done here too."""

from typing import Any

import pytest
from bem_fleet.services.orchestrator.kube.api import InvalidError

from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import MISSIONS
from tests.unit.services.orchestrator.missions import SCHEMA

SPECS: list[dict[str, Any]] = [
    {},
    {"gpus": [{"name": "primary"}, {"name": "spare", "count": 2}]},
    {"canary": {"image": "i"}},
    {"canary": {"image": "i", "steps": [{"weight": 5}], "analysis": {"alpha": 0.01}}},
    {"model": "qa", "canary": {"model": "qa-v2", "shadow": 7}},
]


@pytest.mark.slow
@needs_kubernetes()
@pytest.mark.parametrize("spec", SPECS)
def test_defaults_are_the_api_servers(plane: ControlPlane, spec: dict[str, Any]) -> None:
    """The same file completes a Mission in the same way on one machine and in a cluster."""
    made = plane.call("POST", MISSIONS, mission_object("completed", **spec))
    plane.call("DELETE", f"{MISSIONS}/completed")

    assert SCHEMA.fill_defaults(spec) == made["spec"]


def test_what_is_given_is_not_changed() -> None:
    """Defaults fill gaps only, and the argument stays as it was."""
    spec = {"replicas": 3, "gpus": [{"name": "a", "count": 2}]}
    completed = SCHEMA.fill_defaults(spec)

    assert (completed["replicas"], completed["gpus"][0]["count"]) == (3, 2)
    assert spec == {"replicas": 3, "gpus": [{"name": "a", "count": 2}]}


def test_a_key_that_the_schema_does_not_have_is_refused() -> None:
    """An API server would drop it with a warning that nobody sees on one machine."""
    with pytest.raises(InvalidError, match="colour"):
        SCHEMA.validate(SCHEMA.fill_defaults({"colour": "red"}))


@pytest.mark.parametrize("name", ["PolicyUpdateInterface", "AnyNewInterface"])
def test_missions_may_have_interfaces_of_their_own(name: str) -> None:
    """The schema knows no list of interfaces, so that a new mission needs no edit of it."""
    edge = {"mission": "other", "interface": name}

    SCHEMA.validate(SCHEMA.fill_defaults({"integrates": [edge]}))
    with pytest.raises(InvalidError, match="interface"):
        SCHEMA.validate(SCHEMA.fill_defaults({"integrates": [{**edge, "interface": "a b"}]}))

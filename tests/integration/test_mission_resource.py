"""The Mission resource at a real API server: what it refuses, and what it says then."""

import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.integration.clusters import (
    CRD,
    ControlPlane,
    control_plane,
    mission,
    needs_kubernetes,
)
from tests.integration.orchestrators import MISSIONS, until

pytestmark = [pytest.mark.slow, needs_kubernetes()]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the Mission resource."""
    with control_plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


def refusal(plane: ControlPlane, name: str = "x", **spec: Any) -> str:
    """Return what the API server says to a Mission that it does not take."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        plane.call("POST", MISSIONS, mission(name, **spec))
    assert caught.value.code == 422
    return str(json.loads(caught.value.read())["message"])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"priority": "urgent"}, 'spec.priority: Unsupported value: "urgent"'),
        ({"replicas": -1}, "spec.replicas"),
        ({"port": 0}, "spec.port"),
        ({"gpus": [{"name": "a", "count": 17}]}, "spec.gpus[0].count"),
        (
            {"gpus": [{"name": "a", "device": "H100_0", "products": ["H100"]}]},
            "spec.gpus.device: give a device or products, not both",
        ),
        (
            {"gpus": [{"name": "a", "shareWith": ["b"], "count": 2}]},
            "spec.gpus.count: a shared GPU is one GPU",
        ),
        ({"gpus": [{"name": "a"}, {"name": "a"}]}, "spec.gpus[1]: Duplicate value"),
        (
            {"gpus": [{"name": "a", "shareWith": ["x"]}]},
            "spec.gpus.shareWith: a mission does not share with itself",
        ),
        ({"canary": {}}, "spec.canary: give image"),
        ({"canary": {"image": "i", "model": "m"}, "model": "n"}, "exactly one"),
        ({"canary": {"model": "m"}}, "spec.canary.model: an adapter canary needs spec.model"),
        (
            {"canary": {"image": "i", "steps": [{"weight": 50}, {"weight": 10}]}},
            "spec.canary.steps.weight: must not fall from step to step",
        ),
        (
            {"integrates": [{"mission": "x", "interface": "PolicyUpdateInterface"}]},
            "spec.integrates.mission: a mission does not integrate with itself",
        ),
    ],
)
def test_a_wrong_mission_is_refused_by_field(
    plane: ControlPlane, spec: dict[str, Any], said: str
) -> None:
    """The API server names the field and the rule, before anything runs."""
    assert said in refusal(plane, **spec)


def test_a_long_name_is_refused(plane: ControlPlane) -> None:
    """A name that leaves no room for the canary's is refused."""
    assert "metadata.name: at most 40 characters" in refusal(plane, "m" * 41)


def test_the_workload_cannot_be_changed(plane: ControlPlane) -> None:
    """Another Deployment is another Mission."""
    plane.call("POST", MISSIONS, mission("fixed", workload="one"))
    with pytest.raises(urllib.error.HTTPError) as caught:
        plane.merge(f"{MISSIONS}/fixed", {"spec": {"workload": "two"}})
    assert "spec.workload: cannot be changed" in json.loads(caught.value.read())["message"]


def test_defaults_are_filled_in(plane: ControlPlane) -> None:
    """An empty specification is a mission of medium priority with one pod."""
    made = plane.call("POST", MISSIONS, mission("plain"))["spec"]

    assert (made["priority"], made["replicas"], made["port"]) == ("medium", 1, 50051)


def test_kubectl_get_shows_the_columns(plane: ControlPlane) -> None:
    """The table has phase, GPU, node, weights and gate."""
    crd = plane.call(
        "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/missions.fleet.bem.dev"
    )
    conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
    columns = [c["name"] for c in crd["spec"]["versions"][0]["additionalPrinterColumns"]]

    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert conditions["Established"] == "True"
    assert {"Phase", "GPU", "Node", "Stable", "Canary", "Gate", "Delta", "P"} <= set(columns)


def test_an_older_resource_is_upgraded_by_server_side_apply(plane: ControlPlane) -> None:
    """As the operations page says: new fields are served, and Missions of before are kept."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/missions.fleet.bem.dev"
    older = plane.call("GET", path)
    properties = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del properties["spec"]["properties"]["canary"]["properties"]["shadow"]
    plane.call("PUT", path, older)
    plane.call("POST", MISSIONS, mission("before"))
    crd = yaml.safe_load(CRD.read_text())
    apply = f"{path}?fieldManager=kubectl&force=true"
    plane.call("PATCH", apply, crd, kind="apply-patch+yaml")
    change = {"spec": {"canary": {"image": "i:2", "shadow": 20}}}

    def shadow() -> int | None:
        written = plane.merge(f"{MISSIONS}/before", change)
        found: int | None = written["spec"]["canary"].get("shadow")
        return found

    # The API server serves the new schema some moments after it has stored it.
    assert until(lambda: shadow() == 20, "the new field is served")
    assert plane.call("GET", f"{MISSIONS}/before")["spec"]["priority"] == "medium"

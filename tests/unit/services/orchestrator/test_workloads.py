"""Patches of Deployments, and the canary's Deployment."""

from typing import Any

from bem_fleet.services.orchestrator import workloads
from bem_fleet.services.orchestrator.assignment.inventory import PRODUCT
from bem_fleet.services.orchestrator.mission import Mission

from tests.unit.services.orchestrator.missions import mission as any_mission

H100 = "NVIDIA-H100-80GB-HBM3"
LABELS = {"app": "router", "fleet.bem.dev/mission": "router", "fleet.bem.dev/track": "stable"}


def mission(**spec: Any) -> Mission:
    """Return a mission with one GPU request."""
    return any_mission(gpus=[{"name": "primary"}], **spec)


def stable() -> dict[str, Any]:
    """Return the mission's Deployment."""
    container = {"name": "mission", "image": "old", "env": [{"name": "A", "value": "1"}]}
    return {
        "metadata": {"name": "router", "namespace": "bem", "uid": "u", "generation": 1},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": dict(LABELS)},
            "template": {
                "metadata": {"labels": dict(LABELS)},
                "spec": {"containers": [{"name": "sidecar", "image": "s"}, container]},
            },
        },
    }


def test_one_node_is_a_node_selector_and_several_an_affinity() -> None:
    """Both name the product; only a single node can be selected by its name."""
    given = mission(replicas=2)
    one = workloads.placement_patch(given, {"a": 2}, H100, replicas=2, priority_class="p")
    two = workloads.placement_patch(given, {"a": 1, "b": 1}, H100, replicas=2, priority_class="")

    pod = one["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {PRODUCT: H100, workloads.HOST: "a"}
    assert pod["priorityClassName"] == "p"
    other = two["spec"]["template"]["spec"]
    assert other["nodeSelector"] == {PRODUCT: H100}
    assert "'a', 'b'" in str(other["affinity"])


def test_tolerations_of_the_chart_stay() -> None:
    """The list has one owner as a whole: an apply repeats it, and adds nothing twice."""
    given, team = mission(canary={"image": "new"}), {"key": "dedicated", "operator": "Exists"}
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}

    def written(*existing: dict[str, Any]) -> list[dict[str, Any]]:
        patch = workloads.placement_patch(
            given, {"a": 1}, H100, replicas=1, priority_class="", tolerations=existing
        )
        found: list[dict[str, Any]] = patch["spec"]["template"]["spec"]["tolerations"]
        return found

    assert written() == [gpu]
    assert written(team) == [team, gpu]
    assert written(gpu, team) == [gpu, team]
    deployed = stable()
    deployed["spec"]["template"]["spec"]["tolerations"] = [team]
    assert given.canary is not None
    made = workloads.canary_deployment(given, deployed, given.canary, {"b": 1}, H100)
    assert made["spec"]["template"]["spec"]["tolerations"] == [team, gpu]


def test_a_placement_is_seen_when_it_is_there() -> None:
    """An applied placement is recognised, and a stale one is not."""
    given, deployed = mission(), stable()
    wanted = workloads.placement_patch(given, {"a": 1}, H100, replicas=1, priority_class="")
    assert not workloads.has_placement(deployed, wanted)

    pod = deployed["spec"]["template"]["spec"]
    pod["nodeSelector"] = wanted["spec"]["template"]["spec"]["nodeSelector"]
    pod["containers"][1]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    deployed["metadata"]["annotations"] = wanted["metadata"]["annotations"]
    assert workloads.has_placement(deployed, wanted)
    released = workloads.placement_patch(given, {}, "", replicas=1, priority_class="")
    assert not workloads.has_placement(deployed, released)


def test_affinities_of_the_chart_stay() -> None:
    """They neither hide a placement, which would be written in each pass, nor miss in a canary."""
    apart: dict[str, Any] = {
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}
    }
    given, deployed = mission(replicas=2, canary={"image": "new"}), stable()
    placed = {"a": 1, "b": 1}
    wanted = workloads.placement_patch(given, placed, H100, replicas=2, priority_class="")
    pod, applied = deployed["spec"]["template"]["spec"], wanted["spec"]["template"]["spec"]
    pod["nodeSelector"] = applied["nodeSelector"]
    pod["containers"][1]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    deployed["metadata"]["annotations"] = wanted["metadata"]["annotations"]
    deployed["spec"]["replicas"] = 2
    pod["affinity"] = {**applied["affinity"], **apart}
    assert given.canary is not None
    one, two = (
        workloads.canary_deployment(given, deployed, given.canary, nodes, H100)["spec"]["template"][
            "spec"
        ]["affinity"]
        for nodes in ({"c": 1}, {"c": 1, "d": 1})
    )

    assert workloads.has_placement(deployed, wanted)
    pod["affinity"] = apart
    assert not workloads.has_placement(deployed, wanted)
    assert one == apart
    assert "'c', 'd'" in str(two)
    assert two.keys() == {"podAntiAffinity", "nodeAffinity"}


def test_a_release_gives_back_what_the_mission_wanted() -> None:
    """The replicas lie in an annotation, because there is no Mission to ask any more."""
    deployed = stable()
    wanted = workloads.placement_patch(mission(replicas=2), {}, "", replicas=0, priority_class="")
    assert not workloads.is_placed(deployed)

    deployed["metadata"]["annotations"] = wanted["metadata"]["annotations"]
    assert workloads.is_placed(deployed)
    patch = workloads.release_patch(deployed)
    assert patch["spec"] == {"replicas": 2}
    assert patch["metadata"] == {"name": "router", "namespace": "bem", "uid": "u"}


def test_pods_without_the_label_are_a_problem() -> None:
    """The label in the Deployment's own metadata is not enough: its pods would count as foreign."""
    deployed = stable()
    deployed["spec"]["template"]["metadata"]["labels"].pop("fleet.bem.dev/mission")
    reason, message = workloads.workload_problem(mission(), deployed)

    assert workloads.workload_problem(mission(), stable()) == ("", "")
    assert reason == "TemplateUnlabelled"
    assert "spec.template.metadata.labels" in message
    assert workloads.canary_blocker(mission(), deployed) == message


def test_the_canary_is_stable_with_another_image_and_track() -> None:
    """Its pods and selector are of the track canary, so that no Service of stable finds them."""
    given = mission(canary={"image": "new", "env": {"A": "2"}})
    assert given.canary is not None
    made = workloads.canary_deployment(given, stable(), given.canary, {"b": 1}, H100)

    spec = made["spec"]
    assert spec["selector"]["matchLabels"]["fleet.bem.dev/track"] == "canary"
    assert spec["template"]["metadata"]["labels"]["fleet.bem.dev/track"] == "canary"
    container = spec["template"]["spec"]["containers"][1]
    assert (container["image"], container["env"]) == ("new", [{"name": "A", "value": "2"}])
    assert spec["template"]["spec"]["containers"][0]["image"] == "s"
    assert spec["template"]["spec"]["nodeSelector"][workloads.HOST] == "b"
    assert workloads.runs_canary_spec(made, given, given.canary)
    assert not workloads.runs_canary_spec(stable(), given, given.canary)


def test_a_deployment_without_tracks_can_have_no_canary() -> None:
    """Its Service would send requests to both, past the split."""
    deployed = stable()
    del deployed["spec"]["selector"]["matchLabels"]["fleet.bem.dev/track"]

    assert "must select fleet.bem.dev/track: stable" in workloads.canary_blocker(
        mission(), deployed
    )

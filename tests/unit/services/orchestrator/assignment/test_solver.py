"""GPU assignment solver: invariants over random fleets, and typical cases."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    AssignmentPlan,
    GpuRequest,
    PodsByNode,
    Priority,
    UnmetReason,
)
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.assignment.solver import solve
from hypothesis import given, settings
from hypothesis import strategies as st

H100, RTX = "NVIDIA-H100-80GB-HBM3", "NVIDIA-GeForce-RTX-4090"
MEMORY = {H100: 80.0, RTX: 24.0}


def node(name: str, product: str, gpus: int = 1, **more: Any) -> GpuNode:
    """Return a node."""
    return GpuNode(name, product, MEMORY[product], gpus, **more)


def request(name: str, priority: Priority = Priority.HIGH, **more: object) -> GpuRequest:
    """Return a request of the mission ``name``."""
    return GpuRequest(key=f"{name}/primary", mission=name, priority=priority, **more)  # type: ignore[arg-type]


NODES = st.lists(
    st.tuples(st.sampled_from([H100, RTX]), st.integers(1, 8), st.integers(0, 2)), max_size=8
).map(
    lambda made: [
        GpuNode(f"n{i}", product, MEMORY[product], gpus, foreign_units=min(foreign, gpus))
        for i, (product, gpus, foreign) in enumerate(made)
    ]
)
CLAIMS = st.lists(
    st.tuples(
        st.sampled_from(Priority),
        st.integers(1, 3),
        st.sampled_from([1, 1, 2, 4, 8]),
        st.sampled_from([0.0, 24.0, 80.0]),
        st.sampled_from([(), ("H100",), ("4090",), ("4090", "H100")]),
    ),
    max_size=12,
).map(
    lambda made: [
        GpuRequest(f"m{i}/p", f"m{i}", priority, pods, gpus, memory, products, created=i)
        for i, (priority, pods, gpus, memory, products) in enumerate(made)
    ]
)


def check_capacity(plan: AssignmentPlan, requests: list[GpuRequest], nodes: list[GpuNode]) -> None:
    """Assert that no GPU has two owners and that every pod is on a suitable node."""
    by_key, by_name = {c.key: c for c in requests}, {n.name: n for n in nodes}
    used = dict.fromkeys(by_name, 0)
    for key, pods in plan.placed.items():
        one = by_key[key]
        assert len({by_name[name].product for name in pods}) == 1
        assert sum(pods.values()) <= one.pods
        for name, count in pods.items():
            assert one.product_rank(by_name[name].product) is not None
            assert by_name[name].memory_gib >= one.memory_gib
            used[name] += count * one.gpus
    for name, gpus in used.items():
        assert gpus <= max(0, by_name[name].gpus - by_name[name].foreign_units)


def unmet_pods(plan: AssignmentPlan) -> int:
    """Return how many pods have no place."""
    return sum(refusal.pods for refusal in plan.unmet.values())


@given(CLAIMS, NODES)
@settings(max_examples=60, deadline=None)
def test_no_gpu_has_two_owners(requests: list[GpuRequest], nodes: list[GpuNode]) -> None:
    """Every GPU has at most one owner, and every pod is placed or reported as unmet."""
    plan = solve(requests, nodes, {})

    check_capacity(plan, requests, nodes)
    placed = sum(sum(pods.values()) for pods in plan.placed.values())
    assert placed + unmet_pods(plan) == sum(one.pods for one in requests)


@given(CLAIMS, NODES)
@settings(max_examples=60, deadline=None)
def test_solving_again_changes_nothing(requests: list[GpuRequest], nodes: list[GpuNode]) -> None:
    """A plan is a fixed point of the solver."""
    plan = solve(requests, nodes, {})
    again = solve(requests, nodes, plan.placed)

    assert again.placed == plan.placed
    assert not again.evicted
    assert not again.moved


@given(CLAIMS, NODES, CLAIMS)
@settings(max_examples=60, deadline=None)
def test_newcomers_displace_only_lower_classes(
    before: list[GpuRequest], nodes: list[GpuNode], arriving: list[GpuRequest]
) -> None:
    """Nobody is preempted by its own class or a lower one, and critical pods never are."""
    newcomers = [
        GpuRequest(f"new-{c.key}", f"new-{c.mission}", c.priority, c.pods, c.gpus, c.memory_gib)
        for c in arriving
    ]
    current = solve(before, nodes, {}).placed
    plan = solve([*before, *newcomers], nodes, current)

    check_capacity(plan, [*before, *newcomers], nodes)
    highest = max((c.priority for c in newcomers), default=Priority.LOW)
    for one in before:
        if one.key in plan.evicted:
            assert one.priority < highest
            assert one.priority is not Priority.CRITICAL


@given(CLAIMS, NODES)
@settings(max_examples=60, deadline=None)
def test_a_refused_pod_could_not_sit_on_a_free_gpu(
    requests: list[GpuRequest], nodes: list[GpuNode]
) -> None:
    """A request without placed pods is unmet only if no suitable node has room."""
    plan = solve(requests, nodes, {})
    used: dict[str, int] = {}
    by_key = {c.key: c for c in requests}
    for key, pods in plan.placed.items():
        for name, count in pods.items():
            used[name] = used.get(name, 0) + count * by_key[key].gpus
    for key in plan.unmet:
        one = by_key[key]
        if key in plan.placed:
            continue
        for there in nodes:
            if one.product_rank(there.product) is not None and there.memory_gib >= one.memory_gib:
                assert there.gpus - there.foreign_units - used.get(there.name, 0) < one.gpus


def holding(plan: AssignmentPlan, name: str) -> PodsByNode:
    """Return the pods of a mission by node."""
    return plan.placed.get(f"{name}/primary", {})


def test_the_smallest_gpu_that_will_do_is_taken() -> None:
    """A request without preferences leaves the H100 to those that need it."""
    nodes = [node("big", H100), node("small", RTX)]
    plan = solve([request("any", memory_gib=16.0), request("large", memory_gib=80.0)], nodes, {})

    assert holding(plan, "any") == {"small": 1}
    assert holding(plan, "large") == {"big": 1}


def test_a_lost_node_is_left_for_a_free_one() -> None:
    """When a node is gone its pods get other GPUs, and those of other nodes stay."""
    nodes = [node("a", RTX, 2), node("b", RTX, 2)]
    held: Mapping[str, PodsByNode] = {"x/primary": {"a": 1}, "y/primary": {"b": 1}}
    plan = solve([request("x"), request("y")], nodes[1:], held)

    assert holding(plan, "x") == {"b": 1}
    assert holding(plan, "y") == {"b": 1}
    assert plan.moved == {"x/primary": 1}


def test_a_pod_moves_before_another_is_evicted() -> None:
    """A request for two GPUs of one node gets them by moving a pod that fits elsewhere."""
    nodes = [node("a", H100, 2), node("b", H100, 1)]
    held: Mapping[str, PodsByNode] = {"one/primary": {"a": 1}}
    plan = solve([request("one", Priority.MEDIUM), request("pair", gpus=2)], nodes, held)

    assert holding(plan, "pair") == {"a": 1}
    assert holding(plan, "one") == {"b": 1}
    assert not plan.evicted


def test_the_lowest_class_loses_first_and_gets_back() -> None:
    """High displaces medium and not critical; when it goes, medium has its GPU again."""
    nodes = [node("a", H100), node("b", H100)]
    low, top = request("low", Priority.MEDIUM), request("top", Priority.CRITICAL)
    held = solve([low, top], nodes, {}).placed
    crowded = solve([low, top, request("new")], nodes, held)
    after = solve([low, top], nodes, crowded.placed)

    assert crowded.evicted == {"low/primary": 1}
    assert crowded.unmet["low/primary"].reason is UnmetReason.OVERBOOKED
    assert "new (high), top (critical)" in crowded.unmet["low/primary"].message
    assert holding(crowded, "top") == held["top/primary"]
    assert holding(after, "low") == held["low/primary"]


def test_a_sliced_gpu_is_shared_by_those_who_agree() -> None:
    """Two missions that name each other share a time-sliced GPU; a third may not."""
    nodes = [node("sliced", H100, pods_per_gpu=4)]
    first = request("memory", memory_gib=40.0, shares_with=frozenset({"sep"}))
    second = request("sep", Priority.MEDIUM, memory_gib=40.0, shares_with=frozenset({"memory"}))
    third = request("router", Priority.MEDIUM, memory_gib=10.0, shares_with=frozenset({"sep"}))
    plan = solve([first, second, third], nodes, {})

    assert holding(plan, "memory") == holding(plan, "sep") == {"sliced": 1}
    assert plan.unmet["router/primary"].reason is UnmetReason.OVERBOOKED


def test_an_impossible_request_names_what_is_missing() -> None:
    """Each explanation names the request and the limit."""
    nodes = [node("a", RTX, 2)]
    asked = [
        request("product", products=("B200",)),
        request("memory", memory_gib=80.0),
        request("count", gpus=4),
        request("device", device="RTX4090_3"),
    ]
    refused = solve(asked, nodes, {}).unmet

    product = refused["product/primary"].message
    assert product == "no node has B200; nodes have NVIDIA-GeForce-RTX-4090"
    assert "80 GiB" in refused["memory/primary"].message
    assert "24 GiB" in refused["memory/primary"].message
    assert "4 GPUs on one node; the largest suitable node has 2" in refused["count/primary"].message
    assert refused["device/primary"].reason is UnmetReason.DEVICE_MISSING
    assert "RTX4090_0, RTX4090_1" in refused["device/primary"].message


def test_the_documented_example_is_what_happens() -> None:
    """Direct placement and migration fail, so the cheapest pod is preempted; or it migrates."""
    nodes = [node("a", H100, 4), node("b", H100, 2)]
    sep, router = request("sep", Priority.MEDIUM), request("router", gpus=4)
    outcomes = []
    for gpus in (2, 1):
        memory = request("memory", Priority.MEDIUM, gpus=gpus)
        current = {"sep/primary": {"a": 1}, "memory/primary": {"b": 1}}
        outcomes.append(solve([sep, memory, router], nodes, current))
    evicted, migrated = outcomes

    assert evicted.evicted == {"sep/primary": 1}
    assert evicted.unmet["sep/primary"].reason is UnmetReason.OVERBOOKED
    assert holding(migrated, "sep") == {"b": 1}
    assert not migrated.evicted
    assert all(holding(plan, "router") == {"a": 1} for plan in outcomes)


@given(NODES, CLAIMS, CLAIMS, st.data())
@settings(max_examples=60, deadline=None)
def test_closed_nodes_keep_their_pods_and_get_no_new_ones(
    nodes: list[GpuNode], claims: list[GpuRequest], later: list[GpuRequest], data: st.DataObject
) -> None:
    """Whatever comes later: a cordoned node is neither emptied nor filled."""
    before = solve(claims, nodes, {}).placed
    closed = data.draw(st.sets(st.sampled_from([n.name for n in nodes]))) if nodes else set()
    changed = [replace(n, closed="cordoned") if n.name in closed else n for n in nodes]
    newcomers = [replace(one, key=f"new-{one.key}", mission=f"new-{one.mission}") for one in later]
    after = solve([*claims, *newcomers], changed, before).placed

    for name in closed:
        there = {key: pods[name] for key, pods in before.items() if name in pods}
        assert {key: pods[name] for key, pods in after.items() if name in pods} == there


def test_a_cordon_moves_nobody_to_the_cpu() -> None:
    """A critical pod stays on a node that is cordoned, and a newcomer is told of the cordon."""
    one = node("a", H100, 2)
    old = request("old", Priority.CRITICAL)
    placed = solve([old], [one], {}).placed
    plan = solve([old, request("new")], [replace(one, closed="cordoned")], placed)

    assert plan.placed == placed == {"old/primary": {"a": 1}}
    assert not plan.evicted
    assert plan.unmet["new/primary"].reason is UnmetReason.NODE_CLOSED
    assert "a (cordoned)" in plan.unmet["new/primary"].message

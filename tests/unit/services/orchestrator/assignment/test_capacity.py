"""GPU capacity bookkeeping."""

from typing import Any

from bem_fleet.services.orchestrator.assignment.capacity import GpuCapacity
from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, Priority
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from hypothesis import given, settings
from hypothesis import strategies as st

H100 = "NVIDIA-H100-80GB-HBM3"


def node(name: str, gpus: int, **more: Any) -> GpuNode:
    """Return a node with H100."""
    return GpuNode(name, H100, 80.0, gpus, **more)


def request(name: str, gpus: int = 1, **more: object) -> GpuRequest:
    """Return a request of one mission."""
    return GpuRequest(f"{name}/primary", name, gpus=gpus, **more)  # type: ignore[arg-type]


def test_the_documented_example_is_what_happens() -> None:
    """A request goes to the node with the fewest GPUs that suffice, which keeps 8 together."""
    capacity = GpuCapacity([node("a", 8), node("b", 4)])
    four = request("four", 4)
    kind = capacity.nodes["a"].kind
    first = capacity.best_fit_node(four, kind)
    capacity.allocate(four, "b")
    second = capacity.best_fit_node(request("next", 4), kind)

    assert (first, second) == ("b", "a")
    assert (capacity.free_gpus("a"), capacity.free_gpus("b")) == (8, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 3)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_releases_undo_allocations(moves: list[tuple[bool, int, int]]) -> None:
    """Free GPUs are always capacity less allocations, and the best fit is a linear search's."""
    nodes = [node(f"n{i}", 2 + i) for i in range(4)]
    capacity = GpuCapacity(nodes)
    kind = nodes[0].kind
    allocated: list[tuple[GpuRequest, str]] = []
    for is_release, index, gpus in moves:
        if is_release and allocated:
            one, name = allocated.pop(index % len(allocated))
            capacity.release(one, name)
        elif (one := request(f"m{gpus}", gpus)) and capacity.has_room(one, f"n{index}"):
            capacity.allocate(one, f"n{index}")
            allocated.append((one, f"n{index}"))
        free = {n.name: n.gpus for n in nodes}
        for one, name in allocated:
            free[name] -= one.gpus
        assert {n.name: capacity.free_gpus(n.name) for n in nodes} == free
        for wanted in (1, 2, 3):
            fits = [(count, name) for name, count in free.items() if count >= wanted]
            expected = min(fits)[1] if fits else None
            assert capacity.best_fit_node(request("probe", wanted), kind) == expected


def test_sharing_needs_both_names_and_enough_memory() -> None:
    """A time-sliced GPU takes pods of missions that name each other while memory lasts."""
    capacity = GpuCapacity([node("s", 1, pods_per_gpu=3)])
    first = request("a", memory_gib=40.0, shares_with=frozenset({"b", "c"}))
    friend = request("b", memory_gib=30.0, shares_with=frozenset({"a"}))
    stranger = request("c", memory_gib=1.0)
    large = request("b", memory_gib=41.0, shares_with=frozenset({"a"}))
    capacity.allocate(first, "s")

    assert capacity.has_room(friend, "s")
    assert not capacity.has_room(stranger, "s")
    assert not capacity.has_room(large, "s")


def test_nodes_below_a_class_come_lowest_first() -> None:
    """Preemption looks at low pods before medium ones, and never at its own class."""
    capacity = GpuCapacity([node("a", 1), node("b", 1), node("c", 1)])
    for name, priority in (("a", Priority.MEDIUM), ("b", Priority.LOW), ("c", Priority.HIGH)):
        capacity.allocate(request(f"m{name}", priority=priority), name)

    below = list(capacity.nodes_below(H100, Priority.HIGH))
    assert below == [(Priority.LOW, "b"), (Priority.MEDIUM, "a")]

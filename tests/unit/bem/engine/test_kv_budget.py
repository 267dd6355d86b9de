"""Tests of the KV budget: bounded, and never blocked for ever."""

from bem.engine.kv_budget import BLOCK, KVBudget
from hypothesis import given, settings
from hypothesis import strategies as st


def test_example_of_the_documentation() -> None:
    """A grant after which no sequence could finish is refused."""
    budget = KVBudget(4 * BLOCK)
    assert budget.admit("a", BLOCK, 3 * BLOCK)
    assert budget.admit("b", BLOCK, 3 * BLOCK)

    assert budget.grow("a", 2 * BLOCK)
    assert not budget.grow("b", 2 * BLOCK)
    assert budget.grow("a", 3 * BLOCK)
    budget.release("a")
    assert budget.grow("b", 3 * BLOCK)


def test_positions_in_a_held_block_need_no_grant() -> None:
    """A sequence asks once for each block, and never for more than its most."""
    budget = KVBudget(BLOCK)
    assert budget.admit("a", 1, 10)

    assert budget.granted == 10
    assert budget.grow("a", 10)
    assert not budget.admit("b", 1, BLOCK)
    assert budget.granted == 10


def test_without_a_bound_everything_is_granted() -> None:
    """None bounds nothing, and what sequences hold is counted all the same."""
    budget = KVBudget(None)

    assert all(budget.admit(owner, 10_000, 100_000) for owner in range(50))
    held = budget.granted
    assert budget.grow(0, 100_000)
    assert budget.granted > held


@settings(deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda blocks: st.tuples(
            st.just(blocks * BLOCK),
            st.lists(
                st.tuples(st.integers(1, blocks * BLOCK), st.integers(0, blocks * BLOCK)),
                min_size=1,
                max_size=12,
            ),
        )
    ),
    st.integers(1, 300),
)
def test_all_sequences_finish_within_the_bound(
    case: tuple[int, list[tuple[int, int]]], step: int
) -> None:
    """Whatever arrives, some sequence proceeds in each round, and memory stays below the bound."""
    limit, requests = case
    budget = KVBudget(limit)
    waiting = [
        (owner, prompt, min(limit, prompt + extra))
        for owner, (prompt, extra) in enumerate(requests)
    ]
    running: dict[int, list[int]] = {}
    while waiting or running:
        while waiting and budget.admit(*waiting[0]):
            owner, prompt, most = waiting.pop(0)
            running[owner] = [prompt, most]
        progressed = False
        for owner, (written, most) in list(running.items()):
            wanted = min(most, written + step)
            if budget.grow(owner, wanted):
                running[owner][0], progressed = wanted, True
            if running[owner][0] >= most:
                budget.release(owner)
                del running[owner]
        assert sum(written for written, _ in running.values()) <= budget.granted <= limit
        assert progressed


def test_evicted_positions_are_granted_to_others() -> None:
    """A sequence that shrinks needs less now and at most."""
    budget = KVBudget(4 * BLOCK)
    assert budget.admit("a", 3 * BLOCK, 4 * BLOCK)
    assert not budget.admit("b", 2 * BLOCK, 2 * BLOCK)
    budget.shrink("a", 2 * BLOCK)

    assert budget.granted == BLOCK
    assert budget.admit("b", 2 * BLOCK, 2 * BLOCK)
    assert budget.grow("a", 2 * BLOCK)

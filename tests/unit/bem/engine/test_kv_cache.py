"""Tests of the KV cache and its attention plans."""

import pytest
import torch
from bem.engine.kv_cache import (
    KEPT_POSITIONS,
    KVCache,
    TransientKeyValues,
    WindowPlan,
    position_bytes,
    rotate,
)
from bem.testing import tiny_backbone

from tests.support.family_models import family_backbone
from tests.support.offered_memory import record_offers


def test_blocks_are_copied_between_slots() -> None:
    """A block that was read from one slot can be written to another."""
    cache = KVCache(tiny_backbone(), slots=2, context_tokens=16)
    cache.keys.uniform_()
    cache.values.uniform_()
    block = cache.read_block(0, slice(1, 3), 4, 8)
    cache.write_block(1, slice(1, 3), 4, block)

    assert torch.equal(cache.keys[1:3, 1, :, 4:8], cache.keys[1:3, 0, :, 4:8])
    assert torch.equal(cache.values[1:3, 1, :, 4:8], cache.values[1:3, 0, :, 4:8])
    assert not torch.equal(cache.keys[0, 1], cache.keys[0, 0])


def test_a_plan_masks_what_a_row_must_not_see() -> None:
    """Rows of unequal length hide the positions behind their own tokens."""
    cache = KVCache(tiny_backbone(), slots=4, context_tokens=16)
    plan = cache.plan([0, 2], [5, 2], tokens=1)

    assert (plan.first_slot, plan.slot_count, plan.key_positions) == (0, 3, 6)
    assert plan.row_index is not None
    assert plan.row_index.tolist() == [0, 2]
    assert plan.mask is not None
    assert (plan.mask[0, 0, 0] == 0).tolist() == [True] * 6
    assert (plan.mask[2, 0, 0] == 0).tolist() == [True] * 3 + [False] * 3


def test_equal_rows_in_neighbouring_slots_need_no_mask() -> None:
    """One view of the cache and no mask: the cheapest case of a decode step."""
    cache = KVCache(tiny_backbone(), slots=4, context_tokens=16)
    plan = cache.plan([1, 2], [5, 5], tokens=1)

    assert plan.mask is None
    assert plan.row_index is None


def test_a_decode_step_plan_equals_the_general_one() -> None:
    """The plan without reading values hides the same positions."""
    cache = KVCache(tiny_backbone(), slots=2, context_tokens=16)
    general = cache.plan([0, 1], [5, 2], tokens=1)
    places = torch.tensor([[5], [2]])
    fixed = cache.plan_decode_step(places, places, key_positions=8)

    assert general.mask is not None
    assert fixed.mask is not None
    assert torch.equal(fixed.mask[..., :6], general.mask)
    assert bool((fixed.mask[..., 6:] < 0).all())
    assert torch.equal(fixed.cos, general.cos)


def test_full_texts_are_causal_and_stored_nowhere() -> None:
    """Keys and values of full texts are returned as attention reads them."""
    cache = KVCache(tiny_backbone(), slots=1, context_tokens=16)
    plan = cache.plan_full_texts(rows=2, tokens=3)
    keys = torch.rand(2, 3, 2, 4)
    read, _ = TransientKeyValues().write(0, plan, keys, keys)

    assert plan.causal
    assert torch.equal(read, keys.transpose(1, 2))
    assert not cache.keys.any()


def test_memory_of_ended_sequences_is_offered_when_nothing_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All heads of a slot offer what its longest sequence wrote; its first positions stay."""
    offered = record_offers(monkeypatch)
    cache = KVCache(tiny_backbone(context_tokens=8192), slots=3, context_tokens=8192)
    for slot, positions in ((1, 6000), (0, KEPT_POSITIONS), (1, 40)):
        cache.release(slot, positions)
    before = int(offered(cache).sum())
    for _ in range(2):
        cache.offer_retained()

    expected = torch.zeros(cache.keys.shape, dtype=torch.int)
    expected[:, 1, :, KEPT_POSITIONS:6000] = 2  # of keys and of values
    assert before == 0
    assert torch.equal(offered(cache), expected)


def test_retained_memory_is_bounded_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that would exceed the bound offers its own memory; the others keep theirs."""
    offered = record_offers(monkeypatch)
    cache = KVCache(tiny_backbone(context_tokens=4096), slots=3, context_tokens=4096)
    monkeypatch.setattr(
        "bem.engine.kv_cache.RETAINED_BYTES", 2 * (4000 - KEPT_POSITIONS) * cache.position_bytes
    )
    for slot in (0, 2, 1):
        cache.release(slot, 4000)

    expected = torch.zeros(cache.keys.shape, dtype=torch.int)
    expected[:, 1, :, KEPT_POSITIONS:4000] = 2
    assert torch.equal(offered(cache), expected)


def test_position_bytes_are_those_of_the_tensors() -> None:
    """The bound in bytes counts what the cache allocates."""
    cache = KVCache(tiny_backbone(), slots=2, context_tokens=16)

    assert cache.keys.nbytes + cache.values.nbytes == 2 * 16 * position_bytes(tiny_backbone())


def test_entries_that_stay_move_to_the_front() -> None:
    """Each head has places of its own; other slots and layers keep theirs."""
    cache = KVCache(tiny_backbone(), slots=2, context_tokens=8)
    cache.keys.copy_(torch.arange(8.0)[:, None].expand_as(cache.keys))
    cache.values.copy_(cache.keys)
    cache.compact(1, 2, torch.tensor([[1, 4, 7], [0, 2, 3]]))
    keys, values = cache.entries(1, 2, 3)

    assert keys[..., 0].tolist() == [[1, 4, 7], [0, 2, 3]]
    assert torch.equal(values, keys)
    assert cache.keys[2, 0, 0, :3, 0].tolist() == [0, 1, 2]
    assert cache.keys[1, 1, 0, :3, 0].tolist() == [0, 1, 2]


def test_angles_of_a_row_count_what_was_evicted() -> None:
    """A token is written to its place and rotated by its position in the text."""
    cache = KVCache(tiny_backbone(), slots=2, context_tokens=16)
    plan = cache.plan([0, 1], [3, 5], tokens=1, evicted=[6, 0])

    assert plan.positions.tolist() == [[3], [5]]
    assert torch.equal(plan.cos[:, 0, 0], cache.cos[[9, 5]])
    assert plan.key_positions == 6


def test_a_rotation_is_undone_by_its_negative() -> None:
    """Rotating by a difference of positions moves a key."""
    cache = KVCache(tiny_backbone(), slots=1, context_tokens=16)
    x = torch.rand(1, 1, 2, cache.cos.shape[1])
    at = [rotate(x, cache.cos[place], cache.sin[place]) for place in (3, 10)]
    moved = rotate(at[1], cache.cos[7], -cache.sin[7])

    assert torch.allclose(moved, at[0], atol=1e-6)


def test_layers_with_a_window_hide_what_lies_before_it() -> None:
    """A token sees itself and the 15 before it; shorter prompts need no mask of their own."""
    cache = KVCache(family_backbone("mistral"), slots=2, context_tokens=32)
    plans = [cache.plan([1], [0], 20), cache.plan_full_texts(2, 20)]
    step = torch.tensor([[18], [19]])
    fixed = cache.plan_decode_step(step, step, key_positions=20)
    visible = torch.ones(20, 20, dtype=torch.bool).tril().triu(-15)

    for plan in plans:
        assert plan.mask is None
        assert plan.causal
        assert plan.window is not None
        assert torch.equal(mask_of(plan.window)[0, 0] == 0, visible)
    assert fixed.window is not None
    assert torch.equal(mask_of(fixed.window)[:, 0, 0] == 0, visible[18:])
    assert cache.plan([0], [0], 16).window is None
    assert KVCache(family_backbone("mistral"), slots=1, context_tokens=16).window is None


def mask_of(plan: WindowPlan) -> torch.Tensor:
    """Return the mask of layers with a window."""
    assert plan.mask is not None
    return plan.mask

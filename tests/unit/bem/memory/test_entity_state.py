"""Tests of the entity state: latest mention, crosstalk, size."""

import numpy as np
import torch
from bem.memory.entity_state import STATE_BYTES, EntityState, entity_keys, slot_signatures


def state_of(mentions: list[tuple[int, int, float]]) -> EntityState:
    """Return the state after mentions."""
    state = EntityState(torch.full((4,), 0.9999))
    state.write(mentions)
    return state


def test_keys_and_signatures_are_unit_vectors_of_their_own() -> None:
    """Vectors have length 1 and those of different numbers are nearly orthogonal."""
    keys = entity_keys(np.arange(1, 200))
    signatures = slot_signatures(np.arange(1, 200))

    torch.testing.assert_close(keys.norm(dim=-1), torch.ones(4, 199))
    assert float((signatures @ signatures.T - torch.eye(199)).abs().max()) < 0.65
    assert not torch.equal(keys[0], keys[1])


def test_latest_slot_of_an_entity_is_pointed_at() -> None:
    """After 60 entities moved three times, reads point at the latest slot of nearly all."""
    mentions = [
        (100 + entity, 1 + 60 * move + entity, 0.9) for move in range(3) for entity in range(60)
    ]
    scores = state_of(mentions).scores(np.arange(100, 160), np.arange(1, 181))

    assert (scores.argmax(1) == np.arange(120, 180)).mean() > 0.95


def test_unknown_entity_points_nowhere() -> None:
    """An entity that was never written has a small score everywhere."""
    scores = state_of([(7, 1, 1.0), (8, 2, 1.0)]).scores(np.array([9]), np.array([1, 2]))

    assert np.abs(scores).max() < 0.3
    assert state_of([]).scores(np.array([], int), np.array([1])).shape == (0, 1)


def test_rounded_state_has_the_bytes_of_a_snapshot() -> None:
    """Rounding to float16 is idempotent, and 32 KB hold the state."""
    state = state_of([(n, n, 0.5) for n in range(1, 90)]).rounded()

    assert torch.equal(state.state, state.rounded().state)
    assert state.state.half().numpy().nbytes == STATE_BYTES == 32 * 1024

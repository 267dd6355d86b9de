"""Tests of the attention that entries get."""

import pytest
import torch
from bem.cache_policy import attention_mass

from tests.unit.bem.cache_policy.random_entries import random_entries


def test_a_group_is_summed_and_later_entries_get_nothing() -> None:
    """Each query of a group gives its whole attention to the entries up to its own position."""
    entries = random_entries(count=20, observed=6, heads=2, group=3)
    (part,) = entries.attention()

    assert part.shape == (2, 6, 20)
    assert torch.allclose(part.sum(-1), torch.full((2, 6), 3.0))
    assert not part[:, 0, 15:].any()  # the first of six queries is at position 14


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_chunks_do_not_change_the_attention(chunk: int) -> None:
    """The memory bound has no influence on the result."""
    entries = random_entries()
    (expected,) = entries.attention()

    assert torch.allclose(torch.cat(list(entries.attention(chunk)), 1), expected, atol=1e-6)
    assert torch.allclose(attention_mass(entries), expected.sum(1), atol=1e-6)


def test_the_last_queries_are_those_of_the_last_positions() -> None:
    """Fewer queries give the last rows of the same attention."""
    entries = random_entries(observed=6)
    (all_rows,) = entries.attention()
    (last,) = entries.last_queries(2).attention()

    assert torch.allclose(last, all_rows[:, 4:], atol=1e-6)

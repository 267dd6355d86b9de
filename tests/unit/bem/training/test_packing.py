"""Tests of sequence packing."""

import torch
from bem.training.activation_cache import IGNORED_LABEL, EncodedExample
from bem.training.packing import assign_rows, pack_row
from hypothesis import given, settings
from hypothesis import strategies as st


def test_rows_are_those_of_the_module_docstring() -> None:
    """The worked example: rows respect their limit, and a longer sequence stands alone."""
    assert assign_rows([5, 30, 4, 6, 1], 10) == [[1], [3, 2], [0, 4]]


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=30), limit=st.integers(1, 50))
def test_each_sequence_is_in_one_row_within_the_limit(lengths: list[int], limit: int) -> None:
    """Nothing is lost or repeated; only a single long sequence may exceed the limit."""
    rows = assign_rows(lengths, limit)

    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[i] for i in row) <= limit for row in rows)


def test_packed_row_has_positions_and_labels_of_replies_only() -> None:
    """Positions are flat over the row; prompts have no label."""
    first = EncodedExample(torch.ones(3, 2), torch.zeros(4), torch.tensor([IGNORED_LABEL, 7, 8]))
    second = EncodedExample(torch.zeros(2, 2), torch.ones(4), torch.tensor([9, IGNORED_LABEL]))
    row = pack_row([first, second]).to(torch.device("cpu"))

    assert row.lengths == (3, 2)
    assert row.positions.tolist() == [1, 2, 3]
    assert row.labels.tolist() == [7, 8, 9]
    assert row.states.shape == (5, 2)
    assert row.features.shape == (2, 4)


def test_starts_follow_their_sequences() -> None:
    """A row keeps the first token with the adapter of each sequence."""
    first = EncodedExample(torch.ones(3, 2), torch.zeros(4), torch.tensor([-100, 7, 8]), start=2)
    second = EncodedExample(torch.zeros(2, 2), torch.ones(4), torch.tensor([9, -100]))

    assert pack_row([first, second]).starts == (2, 0)

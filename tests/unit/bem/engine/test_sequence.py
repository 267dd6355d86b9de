"""Tests of the state of one request."""

import torch

from tests.unit.bem.engine.sequences import WIDTH, make_sequence, prefill_lower


def test_progress_goes_through_both_halves() -> None:
    """A prompt first passes the lower half, then the upper one; then the sequence decodes."""
    sequence = make_sequence(6)
    assert sequence.remaining_prefill == 12

    prefill_lower(sequence, 6)
    assert sequence.lower_prefilled
    assert (sequence.remaining_prefill, sequence.is_decoding) == (6, False)
    assert sequence.computed_in(upper=False) == 6

    sequence.computed_tokens = 6
    assert sequence.is_decoding
    assert (sequence.remaining_prefill, sequence.computed_in(upper=True)) == (0, 6)


def test_lower_states_are_stored_in_order() -> None:
    """States of later tokens follow those of earlier ones."""
    sequence = make_sequence(3)
    sequence.append_lower_states(torch.ones(2, WIDTH), 2 * torch.ones(2, WIDTH))
    sequence.append_lower_states(3 * torch.ones(1, WIDTH), 4 * torch.ones(1, WIDTH))

    assert sequence.lower_states[0, :3, 0].tolist() == [1, 1, 3]
    assert sequence.lower_states[1, :3, 0].tolist() == [2, 2, 4]

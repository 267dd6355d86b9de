"""Properties of bijective scrambles: group law, bijection, and the stated equivariance."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.sep.bijection_draws import draw_symbol_permutations
from bem.sep.bijections import Bijection, canonical_numbering, invert_permutations
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SEEDS = st.integers(0, 2**32)
ROWS, LENGTH, ALPHABET = 3, 12, 7


def draw(seed: int) -> tuple[Tensor, list[Bijection]]:
    """Return ids and three elements, the last without a permutation of symbols."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(ALPHABET, (ROWS, LENGTH), generator=generator)
    elements = [
        Bijection(
            torch.rand(ROWS, ALPHABET, generator=generator).argsort(1) if number < 2 else None,
            torch.rand(ROWS, LENGTH, generator=generator).argsort(1),
        )
        for number in range(3)
    ]
    return ids, elements


@given(SEEDS)
def test_scrambles_are_a_group(seed: int) -> None:
    """Composition is application in turn and associative; identity and inverses are neutral."""
    ids, (first, second, third) = draw(seed)

    assert torch.equal(first.then(second)(ids), second(first(ids)))
    assert torch.equal(first.then(second).then(third)(ids), first.then(second.then(third))(ids))
    for one in (first, second, third):
        assert torch.equal(one.inverse()(one(ids)), ids)
        assert torch.equal(one.then(one.inverse())(ids), ids)
        assert torch.equal(Bijection().then(one).then(Bijection())(ids), one(ids))
        assert torch.equal(one.inverse().inverse()(ids), one(ids))


@given(SEEDS)
def test_an_equivariant_function_commutes_with_its_scramble(seed: int) -> None:
    """A function by token commutes with positions; one of the counts commutes with symbols."""
    ids, (one, *_) = draw(seed)
    moved, ciphered = Bijection(positions=one.positions), Bijection(symbols=one.symbols)
    table = torch.rand(ALPHABET, 4, generator=torch.Generator().manual_seed(seed))
    seen = torch.nn.functional.one_hot(ids, ALPHABET).cumsum(1).float()
    seen_ciphered = torch.nn.functional.one_hot(ciphered(ids), ALPHABET).cumsum(1).float()

    assert torch.equal(table[moved(ids)], moved.scramble_states(table[ids]))
    assert torch.equal(seen_ciphered, ciphered.scramble_logits(seen))
    assert ciphered.scramble_states(seen) is seen
    assert moved.scramble_logits(seen) is seen


@given(SEEDS)
def test_canonical_numbers_are_invariant_and_lose_nothing_else(seed: int) -> None:
    """Ciphered ids have the same numbers, which are a cipher of the ids themselves."""
    ids, (one, *_) = draw(seed)
    numbers = canonical_numbering(ids)

    assert torch.equal(canonical_numbering(Bijection(symbols=one.symbols)(ids)), numbers)
    assert torch.equal(canonical_numbering(numbers), numbers)
    same = ids.unsqueeze(1) == ids.unsqueeze(2)
    assert torch.equal(numbers.unsqueeze(1) == numbers.unsqueeze(2), same)


def test_numbers_follow_first_occurrence() -> None:
    """The example of the docstring."""
    assert canonical_numbering(torch.tensor([[1, 0, 1, 2]])).tolist() == [[0, 1, 0, 2]]
    assert canonical_numbering(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0)


def test_inverses_of_permutations() -> None:
    """A rotation by one is undone by the rotation back."""
    assert invert_permutations(torch.tensor([[1, 2, 0]])).tolist() == [[2, 0, 1]]


def test_scramble_of_another_batch_is_refused() -> None:
    """Rows and positions that are not the scramble's are named."""
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InvalidSettingError, match="ids: 2 rows, but symbols has 3"):
        draw_symbol_permutations(3, 5, generator)(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(InvalidSettingError, match="4 positions, but the scramble moves 3"):
        Bijection(positions=torch.arange(3)[None])(torch.zeros(1, 4, dtype=torch.int64))

"""Batches of the guard's encoder."""

import random

from bem_fleet.guard.training.examples import Example
from bem_fleet.recipes.guard.batching import batches


def test_batches_have_one_side_and_every_example_once() -> None:
    """Lengths within a batch are similar, and the order is shuffled."""
    examples = [
        Example("word " * (1 + number % 40), number % 2, "f", number % 3 == 0)
        for number in range(200)
    ]
    found = batches(examples, 16, random.Random(0))

    assert sorted(index for batch in found for index in batch) == list(range(200))
    assert all(len({examples[index].is_reply for index in batch}) == 1 for batch in found)
    lengths = [[len(examples[index].text) for index in batch] for batch in found]
    assert max(max(one) - min(one) for one in lengths) < 100
    assert found != batches(examples, 16, random.Random(1))

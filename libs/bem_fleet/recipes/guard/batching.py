"""Batches of examples for the guard's encoder."""

import random
from collections.abc import Sequence

from bem_fleet.guard.training.examples import Example


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> list[list[int]]:
    """Return shuffled batches of indices, of one side each and of texts of similar length.

    Args:
        examples: Examples of both sides.
        size: Examples of a batch.
        rng: Source of the order.
    """
    shuffled: list[list[int]] = []
    for is_reply in (False, True):
        own = [index for index, one in enumerate(examples) if one.is_reply == is_reply]
        own.sort(key=lambda index: (len(examples[index].text) // 24, rng.random()))
        shuffled += [own[start : start + size] for start in range(0, len(own), size)]
    rng.shuffle(shuffled)
    return shuffled

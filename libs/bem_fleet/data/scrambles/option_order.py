"""New orders of the replies of a multiple-choice question: the right reply goes along.

The group of the orders acts on questions: orders compose, each has an inverse, and a choice that
does not depend on the order is equivariant, ``choice(P q) = P choice(q)``.
"""

from dataclasses import dataclass, replace

import numpy as np
from bem.errors import InvalidSettingError

from bem_fleet.data.multiple_choice import ChoiceQuestion


@dataclass(frozen=True)
class OptionOrder:
    """Order of replies.

    Attributes:
        places: Former place of each reply, a permutation.

    Raises:
        InvalidSettingError: The places are no permutation.
    """

    places: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.places) != list(range(len(self.places))):
            raise InvalidSettingError(f"places: {self.places} is no permutation of its places")

    def __call__(self, question: ChoiceQuestion) -> ChoiceQuestion:
        """Return the question in this order; its key and cluster stay.

        Raises:
            InvalidSettingError: The question has another number of replies.
        """
        if len(question.options) != len(self.places):
            raise InvalidSettingError(
                f"places: {len(self.places)}, but question {question.key} has "
                f"{len(question.options)} replies"
            )
        options = tuple(question.options[place] for place in self.places)
        return replace(question, options=options, right=self.place_of(question.right))

    def place_of(self, former: int) -> int:
        """Return the new place of a reply."""
        return self.places.index(former)

    def then(self, other: "OptionOrder") -> "OptionOrder":
        """Return the order that applies this one first and ``other`` after it."""
        return OptionOrder(tuple(self.places[place] for place in other.places))

    def inverse(self) -> "OptionOrder":
        """Return the order that undoes this one."""
        return OptionOrder(tuple(self.place_of(former) for former in range(len(self.places))))


def draw_option_order(count: int, rng: np.random.Generator) -> OptionOrder:
    """Return a uniform order of ``count`` replies that is not the present one.

    Args:
        count: Number of replies, at least 2.
        rng: Source of randomness.

    Raises:
        InvalidSettingError: There are fewer than two replies.
    """
    if count < 2:
        raise InvalidSettingError(f"count: {count} replies; at least 2, so that there is an order")
    while (places := tuple(rng.permutation(count).tolist())) == tuple(range(count)):
        pass
    return OptionOrder(places)

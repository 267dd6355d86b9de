"""Representation robustness score (RRS): similarity across scrambles, corrected for chance.

    RRS = mean over scrambles P of (s(x, P x) - s(x, x')) / (1 - s(x, x'))

with s a similarity of pooled representations (mean cosine, or debiased linear CKA) and x' another
item, by a random permutation without fixed points. RRS is at most 1: 1 is invariance, 0 is no more
similarity than between different items; it is below 0 where a scramble moves a representation
further than another item is away.

RRS rises when representations collapse: report it beside ``collapse_guards`` and the clean
accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError

from bem_fleet.scores.representation_similarity import Matrix, linear_cka, row_cosines


@dataclass(frozen=True)
class RepresentationRobustness:
    """RRS of a model on a set of items.

    Attributes:
        cosine: RRS by cosine, at most 1.
        cka: RRS by debiased linear CKA, at most 1.
        chance_cosine: Mean cosine of different items.
        chance_cka: Debiased linear CKA of shuffled pairs, about 0.
        items: RRS by cosine of each item, ``[N]``, whose mean is ``cosine``; for paired statistics.
    """

    cosine: float
    cka: float
    chance_cosine: float
    chance_cka: float
    items: tuple[float, ...]


def representation_robustness(
    clean: Matrix, scrambled: Sequence[Matrix], *, seed: int = 0
) -> RepresentationRobustness:
    """Return the RRS of pooled representations.

    Args:
        clean: ``[N, F]`` of the clean items; CKA needs N above F.
        scrambled: ``[N, F]`` of the same items under each scramble, at least one.
        seed: Seed of the shuffled partners.

    Raises:
        InvalidScoresError: There is no scramble, shapes differ, rows are too few, or the items
            have equal representations, so that nothing can be corrected for chance.
    """
    if not scrambled:
        raise InvalidScoresError("scrambled: no scramble; at least one is needed")
    others = clean[derangement(len(clean), np.random.default_rng(seed))]
    chance = float(row_cosines(clean, others).mean())
    if chance > 1 - 1e-9:
        raise InvalidScoresError(
            "clean: all items have one representation, which collapsed; RRS is undefined"
        )
    chance_cka = linear_cka(clean, others)
    similar = np.mean([row_cosines(clean, one) for one in scrambled], axis=0)
    items = (similar - chance) / (1 - chance)
    similar_cka = float(np.mean([linear_cka(clean, one) for one in scrambled]))
    return RepresentationRobustness(
        cosine=float(items.mean()),
        cka=(similar_cka - chance_cka) / (1 - chance_cka),
        chance_cosine=chance,
        chance_cka=chance_cka,
        items=tuple(items.tolist()),
    )


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random permutation of ``count`` places that is one cycle, so that none stays.

    Raises:
        InvalidScoresError: There are fewer than two places.
    """
    if count < 2:
        raise InvalidScoresError(f"clean: {count} items; at least 2, so that each has a partner")
    order = rng.permutation(count)
    partners = np.empty(count, np.int64)
    partners[order] = np.roll(order, 1)
    return partners

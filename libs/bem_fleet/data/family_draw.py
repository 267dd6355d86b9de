"""Stratified draw of held-out families, at the level of near-duplicate families.

Two families are *near* when a text of one is a near-duplicate of a text of the other
(``near_duplicates``); a *near-duplicate family* is the transitive closure, named after its first
family. It is drawn as a whole, so that no displacement can empty a stratum: where two families
shared one wording, drawing them apart lost every held-out text of it.

The draw is a pure function of the families' texts and the seed.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from bem_fleet.data.near_duplicates import Keys, near_duplicate_clusters

HELD_OUT_SHARE = 0.3
"""Share of a stratum's texts that is held out at least, where the limits allow it."""
MIN_HELD_OUT = 3
"""Number of near-duplicate families of a stratum that are held out at least, likewise."""
MAX_HELD_OUT_SHARE = 0.6
"""Share of a stratum's texts that is held out at most: large families overshoot the first one."""


def near_duplicate_families(families: Sequence[str], keys: Sequence[Keys]) -> dict[str, str]:
    """Return the near-duplicate family of each family.

    Args:
        families: Family of each text.
        keys: Near-duplicate keys of each text, without what is filled into it later.
    """
    names: dict[int, str] = {}
    clusters = near_duplicate_clusters(keys, groups=families).tolist()
    for family, cluster in zip(families, clusters, strict=True):
        names[cluster] = min(family, names.get(cluster, family))
    return {family: names[one] for family, one in zip(families, clusters, strict=True)}


def draw_held_out(
    texts: Iterable[tuple[str, str]], seed: int, *, train_only: Iterable[str] = ()
) -> frozenset[str]:
    """Return the near-duplicate families that are held out of training.

    The strata are drawn in the order of their names. Within one, families are taken in the order of
    the SHA-256 of the seed and their name until ``HELD_OUT_SHARE`` of its texts and
    ``MIN_HELD_OUT`` families are held out. A family that belongs to several strata counts in each.
    A family stays in training if it has more than half of the texts of a stratum, or if with it
    more than ``MAX_HELD_OUT_SHARE`` of a stratum's texts, or half of its families, would be held
    out.

    Args:
        texts: Near-duplicate family and stratum of each text.
        seed: Number of the draw.
        train_only: Families that are never held out.
    """
    strata: dict[str, Counter[str]] = defaultdict(Counter)
    for family, stratum in texts:
        strata[stratum][family] += 1
    sizes = {stratum: own.total() for stratum, own in strata.items()}
    large = {f for name, own in strata.items() for f in own if 2 * own[f] > sizes[name]}
    held: set[str] = set()

    def fits(family: str) -> bool:
        for name, own in strata.items():
            taken = {*(held & own.keys()), family}
            if family in own and (
                2 * len(taken) > len(own)
                or sum(own[one] for one in taken) > MAX_HELD_OUT_SHARE * sizes[name]
            ):
                return False
        return True

    for name, own in sorted(strata.items()):
        for family in sorted(own.keys() - large - {*train_only}, key=lambda one: _rank(one, seed)):
            taken = held & own.keys()
            share = sum(own[one] for one in taken) / sizes[name]
            if len(taken) >= MIN_HELD_OUT and share >= HELD_OUT_SHARE:
                break
            if fits(family):
                held.add(family)
    return frozenset(held)


def _rank(family: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{family}".encode()).digest()

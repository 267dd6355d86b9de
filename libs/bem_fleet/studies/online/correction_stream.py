"""Correction streams: corrections of instruction families by several users, some of them wrong.

A wrong correction is the wanted reply of another request of the family: it has the right form and
the wrong content, which is harder to notice than noise.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bem.errors import DataFormatError

from bem_fleet.data.benign_prompts import load_benign_requests
from bem_fleet.data.instruction_families import (
    FamilyItem,
    InstructionFamily,
    family_items,
    instruction_families,
)

USERS = 8
"""Users that the corrections of a family come from."""


@dataclass(frozen=True)
class Correction:
    """One correction.

    Attributes:
        family: Family of the request; no method may read it but to count.
        user: User who sent it.
        prompt: User message.
        reply: Reply that the user calls right.
        wrong: Whether it is wrong.
    """

    family: str
    user: str
    prompt: str
    reply: str
    wrong: bool = False


@dataclass(frozen=True)
class StudyItems:
    """What the methods are scored on.

    Attributes:
        probes: Requests in wordings that no correction has, of the corrected families.
        neighbours: Requests in the corrections' own wordings, of other families.
        unrelated: Requests of another kind.
    """

    probes: tuple[FamilyItem, ...]
    neighbours: tuple[str, ...]
    unrelated: tuple[str, ...]


def correction_stream(
    families: Sequence[InstructionFamily], count: int, wrong: float, seed: int
) -> list[Correction]:
    """Return the corrections of families in turn.

    Args:
        families: Families that are corrected.
        count: Corrections of each family.
        wrong: Share of wrong ones in each family, in [0, 1).
        seed: Seed of the items and of which are wrong.

    Raises:
        DataFormatError: The share is out of its range.
    """
    if not 0 <= wrong < 1:
        raise DataFormatError(f"wrong: {wrong} is not in [0, 1)")
    streams = [_family_stream(one, count, wrong, seed) for one in families]
    return [one for turn in zip(*streams, strict=True) for one in turn]


def _family_stream(
    family: InstructionFamily, count: int, wrong: float, seed: int
) -> list[Correction]:
    items = family_items(family, "stream", count, seed)
    draw = random.Random(f"{seed}:{family.name}")  # noqa: S311 - an order, not a secret
    spoiled = set(draw.sample(range(count), round(wrong * count)))
    out = []
    for number, item in enumerate(items):
        others = [one.wanted for one in items if one.wanted != item.wanted]
        reply = draw.choice(others) if number in spoiled else item.wanted
        out.append(
            Correction(
                item.family, f"user-{number % USERS}", item.request, reply, number in spoiled
            )
        )
    return out


def study_items(
    families: Sequence[InstructionFamily], probes: int, others: int, seed: int
) -> StudyItems:
    """Return probes of families, and requests that corrections of them must not change.

    Args:
        families: Families that are corrected.
        probes: Probes of each family.
        others: Neighbours, and as many unrelated requests.
        seed: Seed of the items.
    """
    own = [one for family in families for one in family_items(family, "probe", probes, seed)]
    strangers = instruction_families("train")
    share = -(-others // len(strangers))
    neighbours = [
        one.request
        for family in strangers
        for one in family_items(family, "stream", share, 1_000 + seed)
    ]
    random.Random(seed).shuffle(neighbours)  # noqa: S311 - an order, not a secret
    unrelated = [one.text for one in load_benign_requests("dev")]
    return StudyItems(tuple(own), tuple(neighbours[:others]), tuple(unrelated[:others]))

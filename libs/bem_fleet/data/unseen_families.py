"""Unseen families: harmless texts of families that the guard was neither trained nor calibrated on.

False positives are counted on them alone. A question of a data set whose other questions calibrated
a threshold is held out, but no stranger: thresholds that were calibrated on familiar families give
three times as many false positives on unseen ones.
"""

from dataclasses import dataclass

from bem_fleet.data.benign_prompts import (
    QUALITY_SETS,
    BenignText,
    load_benign_requests,
    load_benign_responses,
)
from bem_fleet.data.guard_texts import CLEAN, HARMLESS, written_texts
from bem_fleet.data.held_out import HELD_OUT
from bem_fleet.data.splits import round_robin

UNIT = "family"


@dataclass(frozen=True)
class UnseenFamilies:
    """Harmless texts of unknown families; ``cluster`` of each is its family.

    Attributes:
        requests: Requests, the families in turn.
        replies: Replies, the families in turn.
    """

    requests: tuple[BenignText, ...]
    replies: tuple[BenignText, ...]


def load_unseen_families(count: int) -> UnseenFamilies:
    """Return harmless requests and replies of held-out origins and held-out written families.

    Args:
        count: Largest number of requests, and of replies.

    Raises:
        HeldOutClosedError: No final evaluation is running.
    """
    requests = [one for one in load_benign_requests(HELD_OUT) if one.family not in QUALITY_SETS]
    replies = [one for one in load_benign_responses(HELD_OUT) if one.family not in QUALITY_SETS]
    for item in written_texts(HELD_OUT):
        role = {HARMLESS: "request", CLEAN: "response"}.get(item.label)
        if role is not None:
            text = BenignText(item.key, item.text, item.family, role=role, cluster=item.family)
            (replies if item.is_reply else requests).append(text)
    return UnseenFamilies(_in_turn(requests)[:count], _in_turn(replies)[:count])


def _in_turn(texts: list[BenignText]) -> tuple[BenignText, ...]:
    """Return the first text of each family, then the second: few families would fill the count."""
    families: dict[str, list[BenignText]] = {}
    for one in texts:
        families.setdefault(one.family, []).append(one)
    return tuple(round_robin(list(families.values())))

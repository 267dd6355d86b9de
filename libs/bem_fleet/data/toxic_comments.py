"""Comments that people labelled toxic, split by the comment for the guard's response heads."""

import hashlib
from dataclasses import dataclass
from functools import cache

from bem_fleet.data.datasets import get_dataset
from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.held_out import HELD_OUT, require_open

SET = "toxicity"
HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class ToxicComment:
    """Comment that people labelled toxic.

    Attributes:
        key: Digest of the comment, 16 hexadecimal characters.
        text: The comment.
        split: ``train`` or ``held_out``, the same for every training seed.
    """

    key: str
    text: str
    split: str


def load_toxic_comments(split: str) -> tuple[ToxicComment, ...]:
    """Return the comments of a split; near-duplicates of training comments are left out.

    Args:
        split: ``train`` or ``held_out``.

    Raises:
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    require_open(SET, split)
    displaced = displaced_keys(SET)
    return tuple(
        one for one in all_toxic_comments() if one.split == split and one.key not in displaced
    )


@cache
def all_toxic_comments() -> tuple[ToxicComment, ...]:
    """Return the comments of both splits before near-duplicates are left out."""
    return tuple(
        ToxicComment(
            record.key,
            record.question,
            HELD_OUT if uniform_draw(record.question) < HELD_OUT_SHARE else "train",
        )
        for record in get_dataset("toxicity").read()
    )


def uniform_draw(text: str, seed: int = 0) -> float:
    """Return a number in [0, 1) that depends on text and seed only."""
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:12], 16) / 16**12

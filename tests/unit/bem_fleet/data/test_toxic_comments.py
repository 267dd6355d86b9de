"""Toxic comments."""

from bem_fleet.data.held_out import inspection
from bem_fleet.data.toxic_comments import HELD_OUT_SHARE, load_toxic_comments


def test_held_out_comments_are_the_same_for_every_seed() -> None:
    """The split has no seed: what one training seed reports, no other one was fitted to."""
    train = load_toxic_comments("train")
    with inspection():
        held = load_toxic_comments("held_out")

    assert not {one.key for one in train} & {one.key for one in held}
    share = len(held) / (len(held) + len(train))
    assert abs(share - HELD_OUT_SHARE) < 0.03

"""Arms: the table of methods, and settings that fit each other."""

import pytest
from bem.errors import InvalidSettingError
from bem.sep.arms import ARMS, Arm


def test_baselines_have_no_loss_between_views() -> None:
    """Augmentation has SEP's views and compute, and only cross entropy on them."""
    assert ARMS["lm"].views == ARMS["lexinvariant"].views == 1
    assert ARMS["augmentation"].views == ARMS["sep"].views == 2
    assert ARMS["augmentation"] == Arm(keys="fresh")
    assert (ARMS["sep-kl"].invariance, ARMS["sep-matching"].kl) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"keys": "old"}, "keys: 'old'"),
        ({"keys": "pool", "pool": 0}, "pool of 0"),
        ({"dropout": 2.0}, r"shares lie in \[0, 1\]"),
        ({"keys": "fresh", "kl": -1.0}, "at least 0"),
        ({"kl": 1.0}, "set keys to 'fresh'"),
    ],
)
def test_impossible_arms_are_refused(settings: dict[str, object], problem: str) -> None:
    """The error says what does not fit."""
    with pytest.raises(InvalidSettingError, match=problem):
        Arm(**settings)  # type: ignore[arg-type]

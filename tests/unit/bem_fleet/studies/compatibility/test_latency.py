"""Timing of the arms, with a clock of the test."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bem_fleet.studies.compatibility.arms import ALL_FIVE, EVERY_ARM, Arm
from bem_fleet.studies.compatibility.latency import latency_report, time_rounds
from bem_fleet.studies.compatibility.mission_items import MissionItem

from tests.support.compatibility_seed import ITEM


def test_arms_take_turns_in_beginning_a_round() -> None:
    """Every arm answers every item of a round, and each begins one of three rounds."""
    order: list[str] = []
    arms = [Arm((name,)) for name in ("router", "sep", "memory")]
    paths: Any = {arm: SimpleNamespace(replies=partial(_note, order, arm)) for arm in arms}
    ticks = iter(range(100))
    seconds = time_rounds(paths, [[ITEM, ITEM]] * 3, clock=lambda: float(next(ticks)))

    assert order[::6] == ["router", "sep", "memory"]
    assert len(order) == 18
    assert all((one == 1).all() for one in seconds.values())


def _note(order: list[str], arm: Arm, items: list[MissionItem]) -> None:
    order += [arm.name] * len(items)


@pytest.mark.slow
def test_the_ratio_is_to_the_slowest_mission() -> None:
    """A pair twice as slow as its slower mission has the ratio 2."""
    noise = np.linspace(0, 0.1, 20)
    seconds = {arm: np.full(20, 1.0) + noise for arm in EVERY_ARM}
    seconds[Arm(("memory",))] *= 2
    seconds[ALL_FIVE] = seconds[Arm(("memory",))] * 2
    report = latency_report(seconds)

    assert report["ratios"][ALL_FIVE.name]["slowest_alone"] == "memory"
    assert report["ratios"][ALL_FIVE.name]["ratio"] == pytest.approx(2)
    assert report["ratios"]["router + sep"]["ratio"] == pytest.approx(1)
    assert report["rounds"] == 20

"""Latency of the arms: requests one at a time, all arms in turn on the same items.

A round is one item of each set. The arm that begins moves on by one each round, because later arms
of a round find the passages' keys and values in the prefix cache of an engine that they share.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bem_fleet.acceptance.gate_evaluation import compare_metric
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.studies.compatibility.arms import ALL_FIVE, PAIRS, Arm
from bem_fleet.studies.compatibility.mission_items import MISSIONS, MissionItem
from bem_fleet.studies.compatibility.request_path import RequestPath

_DIGITS = 4


def time_rounds(
    paths: Mapping[Arm, RequestPath],
    rounds: Sequence[Sequence[MissionItem]],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Arm, NDArray[np.float64]]:
    """Return the seconds of each arm in each round, ``[rounds]``.

    Args:
        paths: Path of each arm.
        rounds: Items of each round.
        clock: Returns seconds.
    """
    arms = list(paths)
    seconds = {arm: np.zeros(len(rounds)) for arm in arms}
    for number, items in enumerate(rounds):
        for place in range(len(arms)):
            arm = arms[(place + number) % len(arms)]
            began = clock()
            for item in items:
                paths[arm].replies([item])
            seconds[arm][number] = clock() - began
    return seconds


def latency_report(seconds: Mapping[Arm, NDArray[np.float64]]) -> dict[str, Any]:
    """Return the median round of each arm, and the ratio of each to its slowest mission alone.

    Args:
        seconds: As ``time_rounds`` returns it, for every arm.
    """
    alone = {one: seconds[Arm((one,))] for one in MISSIONS}
    ratios = {}
    for arm in (*map(Arm, PAIRS), ALL_FIVE):
        slowest = max(arm.missions, key=lambda one: float(np.median(alone[one])))
        scores = PairedScores(seconds[arm][None], alone[slowest][None])
        found = compare_metric("seconds", scores, "ratio", 1.0)
        ratios[arm.name] = {
            "slowest_alone": slowest,
            "ratio": round(found.figure, _DIGITS),
            "ci_low": None if found.low is None else round(found.low, _DIGITS),
            "ci_high": None if found.high is None else round(found.high, _DIGITS),
        }
    medians = {arm.name: round(float(np.median(one)), _DIGITS) for arm, one in seconds.items()}
    return {"rounds": len(next(iter(alone.values()))), "p50_s": medians, "ratios": ratios}

"""Canary suite of a version."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from bem.online.codebook import Codebook, make_condition
from bem.online.feedback import FeedbackExample
from bem_fleet.services.online.canary_suite import (
    BASIC,
    PERFORMANCE,
    SAFETY,
    SuiteItem,
    SuitePrompt,
    SuiteResult,
    compare,
    suite_prompts,
    without_safety_prompts,
)

from tests.support.tiny_bank import tiny_codebook
from tests.unit.services.online.hosts import FAMILY, code

CENTER = torch.zeros(32)


def book() -> Codebook:
    """Return a codebook with a condition at the origin of the keys."""
    keys = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) * 0.02
    return tiny_codebook().with_condition(make_condition(FAMILY, keys, code()))


def items(part: str, *places: float) -> list[SuiteItem]:
    """Return items whose states lie at places on the first axis."""
    return [SuiteItem(SuitePrompt(part, "a"), CENTER + at * torch.eye(32)[0]) for at in places]


async def reply(prompt: SuitePrompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return tokens that are the same for each prompt."""
    del prompt
    return (1, 2), (3,)


async def distance(
    live: torch.Tensor, other: torch.Tensor, examples: Sequence[FeedbackExample]
) -> float:
    """Return the distance of the codes."""
    assert len(examples) == 1
    return float((live - other).norm())


def test_prompts_are_the_same_in_every_process() -> None:
    """Each part has its number of prompts; only those of families have wanted answers."""
    found = suite_prompts(10)

    assert found == suite_prompts(10)
    assert [one.part for one in found] == [BASIC] * 10 + [SAFETY] * 10 + [PERFORMANCE] * 10
    assert [bool(one.reply) for one in found] == [False] * 20 + [True] * 10
    assert len({one.text for one in found}) == 30


def test_no_safety_prompt_meets_a_condition() -> None:
    """The radii end before the nearest safety prompt, and basic prompts do not matter."""
    suite = [*items(SAFETY, 0.01, 5), *items(BASIC, 0)]
    before = book()
    after = without_safety_prompts(before, suite)

    assert before.match(suite[0].state) is not None
    assert after.match(suite[0].state) is None
    assert after.match(CENTER) is not None
    assert 0 < after.threshold < before.threshold
    empty = tiny_codebook()
    assert without_safety_prompts(empty, suite) is empty


async def test_only_changed_prompts_are_compared() -> None:
    """Prompts outside all conditions, or with the same code, differ by nothing."""
    suite = [*items(BASIC, 0, 9, 9, 9), *items(SAFETY, 9), *items(PERFORMANCE, 9)]
    same = await compare(book(), book(), suite, reply, distance)
    result = await compare(tiny_codebook(), book(), suite, reply, distance)

    assert sum(same.affected.values()) == 0
    assert (result.affected, result.prompts[BASIC]) == ({BASIC: 1, SAFETY: 0, PERFORMANCE: 0}, 4)
    assert abs(result.divergence[BASIC] - float(code().norm()) / 4) < 1e-5


def test_findings_name_part_and_limit() -> None:
    """A safety prompt that is affected, a divergence above its limit, and NaN are findings."""
    nan = float("nan")
    counts = {BASIC: 4, SAFETY: 4, PERFORMANCE: 4}
    good = SuiteResult(counts, {BASIC: 1, SAFETY: 0}, {BASIC: 0.05, PERFORMANCE: 0.0})
    bad = SuiteResult(counts, {BASIC: 1, SAFETY: 2}, {BASIC: 0.06, PERFORMANCE: nan})

    assert good.findings(0.05) == []
    assert [one.partition(":")[0] for one in bad.findings(0.05)] == [SAFETY, BASIC, PERFORMANCE]

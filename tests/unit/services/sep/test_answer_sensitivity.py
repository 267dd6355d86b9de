"""Sensitivity of the tiny model's answers, and of a host whose answers are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem_fleet.services.sep.answer_sensitivity import SensitivityInquiry, answer_sensitivity
from bem_fleet.serving import GeneratedText

from tests.unit.services.sep.hosts import tiny_host


def inquiry(prompt: str, **changes: Any) -> SensitivityInquiry:
    """Return an inquiry with small limits."""
    fields = {"model": "", "rewrites": 3, "seed": 0, "rate": 0.3, "max_tokens": 6}
    return SensitivityInquiry(prompt, **{**fields, **changes})


async def test_random_model_depends_on_the_surface(tmp_path: Path) -> None:
    """Every letter moves a random model's answer; the same seed gives the same score."""
    async with tiny_host(tmp_path) as host:
        found = await answer_sensitivity(host, inquiry("where is the harbour"), None)
        again = await answer_sensitivity(host, inquiry("where is the harbour"), None)

    assert 0 < found.score <= 1
    assert 0 < found.changed <= 1
    assert (len(found.rewrites), len(found.answers)) == (3, 3)
    assert found.tokens == 4 * 6
    assert again.score == pytest.approx(found.score, abs=1e-4)
    assert again.answers == found.answers


async def test_answers_that_are_all_the_same_have_sensitivity_zero() -> None:
    """Nothing is scored then."""

    async def generate(*_: Any, **__: Any) -> GeneratedText:
        return GeneratedText("north", 2, "v")

    host: Any = SimpleNamespace(generate=generate, prompt_ids=lambda *_: [1])
    found = await answer_sensitivity(host, inquiry("where is the harbour"), None)

    assert (found.score, found.changed, found.tokens) == (0, 0, 8)


async def test_wrong_inquiries_are_refused(tmp_path: Path) -> None:
    """An empty message, one without a surface, and an unknown model are named."""
    async with tiny_host(tmp_path) as host:
        for prompt in (" ", "12"):
            with pytest.raises(InvalidRequestError, match=r"^prompt"):
                await answer_sensitivity(host, inquiry(prompt), None)
        with pytest.raises(AdapterNotFoundError):
            await answer_sensitivity(host, inquiry("where is it", model="other"), None)

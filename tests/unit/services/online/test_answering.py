"""Answers with and without learned codes."""

from pathlib import Path

import pytest
from bem.errors import AdapterNotFoundError
from bem_fleet.services.online.answering import Answering, AnsweringHolder
from bem_fleet.services.online.served_codes import CodeAdapters
from fleet.errors import UnavailableError

from tests.unit.services.online.hosts import FAMILY, bank, codebook, engine_host

TAUGHT = [f"zzzzzz qq zzzzzz {n}" for n in range(8)]
UNRELATED = "The tide was low, and we walked to the island."


async def test_only_prompts_of_a_condition_are_answered_by_its_code(tmp_path: Path) -> None:
    """Others get the base model's answer bit for bit; the observer sees learned answers only."""
    with engine_host(tmp_path) as host:
        answering = Answering(host)
        before = [
            (await answering.answer(text, max_tokens=8)).text for text in (TAUGHT[0], UNRELATED)
        ]
        adapters = CodeAdapters(host, bank(), tmp_path / "codes")
        answering.served = await adapters.install(4, await codebook(answering, TAUGHT))
        observed = []
        answering.observe = lambda condition, likelihood: observed.append(
            (condition.name, likelihood)
        )
        taught = await answering.answer(TAUGHT[0], max_tokens=8)
        unrelated = await answering.answer(UNRELATED, max_tokens=8)
        named = await answering.answer(TAUGHT[0], model="tiny", max_tokens=8)

    assert taught.text != before[0]
    assert (taught.version, taught.condition) == (4, FAMILY)
    assert (unrelated.text, unrelated.condition) == (before[1], "")
    assert named.text == taught.text  # the base model's name is the base model with what it learned
    assert [name for name, _ in observed] == [FAMILY, FAMILY]
    assert all(likelihood < 0 for _, likelihood in observed)


async def test_unloaded_code_falls_back_to_the_base_model(tmp_path: Path) -> None:
    """An operator who unloads a code's adapter breaks no request; unknown models are named."""
    with engine_host(tmp_path) as host:
        answering = Answering(host)
        base = await answering.answer(TAUGHT[0], max_tokens=8)
        adapters = CodeAdapters(host, bank(), tmp_path / "codes")
        answering.served = await adapters.install(1, await codebook(answering, TAUGHT))
        await host.unload(answering.served.adapters[FAMILY])
        after = await answering.answer(TAUGHT[0], max_tokens=8)
        with pytest.raises(AdapterNotFoundError):
            await answering.answer(TAUGHT[0], model="unknown")

    assert (after.text, after.condition) == (base.text, "")


def test_loading_model_is_unavailable() -> None:
    """The caller is told to retry."""
    with pytest.raises(UnavailableError, match="still loading"):
        AnsweringHolder().get()

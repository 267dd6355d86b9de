"""Tests of the systems of the router's study, on the tiny base model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bem.engine import LLMEngine
from bem.errors import EvaluationError
from bem.policy.actions import FIXED_PLAN, MacroAction
from bem.testing import tiny_backbone
from bem_fleet.data.record_facts import generate_record_questions
from bem_fleet.evaluation.systems import Chat, Decoding, Message
from bem_fleet.studies.router.plan_system import ChainSystem, PlanSystem, always, by_policy

from tests.support.policies import tiny_policy
from tests.unit.bem.engine.engines import make_engine, write_adapters

CHATS: list[Chat] = [
    (Message("user", f"{record.passage}\n\n{record.question}"),)
    for record in generate_record_questions("train", 0, 2)
]
DECODING = Decoding(max_tokens=6)
ADAPTERS = {"retrieve": "alpha", "reason": "beta", "formalize": "alpha", "general": "beta"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLMEngine]:
    """A started engine with two adapters."""
    folder: Path = write_adapters(tmp_path_factory.mktemp("adapters"))
    engine = make_engine(tiny_backbone(context_tokens=4096), folder)
    engine.start()
    yield engine
    engine.close(drain=False)


def test_a_plan_of_one_step_is_the_adapter_behind_the_passages(engine: LLMEngine) -> None:
    """Each conversation is answered once, within the limit."""
    choose, identity = always((MacroAction("general"),))
    system = PlanSystem(engine, "direct", choose, identity=identity, adapters=ADAPTERS)

    found = dict(system.respond(CHATS, DECODING, 0))

    assert sorted(found) == [0, 1]
    assert all(0 < one.completion_tokens <= 6 for one in found.values())


def test_tokens_of_all_steps_count(engine: LLMEngine) -> None:
    """A chain's prompts are longer than those of a direct answer."""
    direct, chain = (
        PlanSystem(engine, "x", choose, identity=identity, adapters=ADAPTERS)
        for choose, identity in (always((MacroAction("general"),)), always(FIXED_PLAN))
    )
    short, long = (dict(one.respond(CHATS, DECODING, 0)) for one in (direct, chain))

    assert direct.digest != chain.digest
    assert all(long[index].prompt_tokens > short[index].prompt_tokens for index in short)


def test_a_policy_chooses_as_the_router_does(engine: LLMEngine) -> None:
    """Every input gets one of the policy's plans; its hash identifies the system."""
    artifact = tiny_policy()
    choose, identity = by_policy(artifact)
    system = PlanSystem(engine, "router", choose, identity=identity, adapters=ADAPTERS)

    assert identity == artifact.card.sha256
    assert len(list(system.respond(CHATS, DECODING, 0))) == 2


def test_a_chain_may_be_longer_than_a_reply(engine: LLMEngine) -> None:
    """Three replies' worth of tokens for the chain, one for the direct monolith."""
    chain, direct = (
        dict(ChainSystem(engine, "alpha", task).respond(CHATS, DECODING, 0))
        for task in ("monolith-chain", "monolith-direct")
    )

    assert all(one.completion_tokens <= 18 for one in chain.values())
    assert all(one.completion_tokens <= 6 for one in direct.values())
    assert not any("\n" in one.text for one in chain.values())


def test_adapters_must_be_loaded(engine: LLMEngine) -> None:
    """A missing adapter would silently be the base model."""
    choose, identity = always(FIXED_PLAN)

    with pytest.raises(EvaluationError, match="nobody"):
        PlanSystem(engine, "x", choose, identity=identity, adapters={"reason": "nobody"})

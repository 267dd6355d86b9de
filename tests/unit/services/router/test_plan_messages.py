"""Tests of the messages of plans."""

from pathlib import Path

import pytest
from bem.engine import GenerationRequest
from bem.errors import InvalidRequestError
from bem.policy.actions import FIXED_PLAN, MacroAction
from bem_fleet.services.router.plan_messages import (
    conversation,
    is_planned,
    plan_header,
    report_message,
    step_messages,
    usage_message,
    version_message,
    wanted_plan,
    wanted_session,
)
from bemfleet.router.v1 import router_pb2 as pb

from tests.support.policies import tiny_policy
from tests.unit.services.router.plan_hosts import (
    DIGEST,
    MESSAGES,
    ScriptedHost,
    install,
    open_desk,
)

REQUEST = GenerationRequest((1,), max_tokens=4)


def test_only_the_model_router_is_planned() -> None:
    """A plan for another model is refused."""
    assert is_planned(pb.GenerateRequest(model="router"))
    assert not is_planned(pb.GenerateRequest(model="alpha"))
    with pytest.raises(InvalidRequestError, match="plan"):
        is_planned(pb.GenerateRequest(plan=[pb.MacroAction(adapter="general")]))


def test_a_clients_plan_is_read_with_its_defaults() -> None:
    """Scope and span may be left out; the messages of a plan are read back."""
    request = pb.GenerateRequest(plan=[pb.MacroAction(adapter="general", rank_budget=2)])

    assert wanted_plan(request) == (MacroAction("general", "passages", "suffix", 2),)
    assert wanted_plan(pb.GenerateRequest(plan=step_messages(FIXED_PLAN))) == FIXED_PLAN


@pytest.mark.parametrize(
    "plan",
    [
        [pb.MacroAction(adapter="other")],
        [pb.MacroAction(adapter="general", rank_budget=-1)],
        [pb.MacroAction(adapter="general")] * 4,
    ],
)
def test_malformed_plans_are_refused(plan: list[pb.MacroAction]) -> None:
    """Unknown tasks, negative budgets and long plans are errors of the request."""
    with pytest.raises(InvalidRequestError):
        wanted_plan(pb.GenerateRequest(plan=plan))


def test_a_session_is_limited() -> None:
    """256 characters are allowed."""
    assert wanted_session(pb.GenerateRequest(session="s" * 256)) == "s" * 256
    with pytest.raises(InvalidRequestError, match="session"):
        wanted_session(pb.GenerateRequest(session="s" * 257))


def test_a_raw_prompt_is_a_message_of_the_user() -> None:
    """Both kinds of input become a conversation."""
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="system", content="x")])

    assert conversation(pb.GenerateRequest(prompt="p")) == [{"role": "user", "content": "p"}]
    assert conversation(pb.GenerateRequest(chat=chat)) == [{"role": "system", "content": "x"}]


async def test_a_report_explains_the_policys_choice(tmp_path: Path) -> None:
    """Alternatives are listed on demand only; the header has one line."""
    install(tmp_path, tiny_policy(base_digest=DIGEST))
    planned = await open_desk(ScriptedHost(), tmp_path).plan(MESSAGES, REQUEST)

    report = report_message(planned, alternatives=True)

    assert report.source == pb.PLAN_SOURCE_POLICY
    assert 0 < report.probability <= 1
    assert len(report.step_probabilities) == len(report.steps)
    assert report.alternatives
    assert all(other.reason for other in report.alternatives)
    assert not report_message(planned).alternatives
    assert plan_header(planned).endswith("; source=policy")


async def test_usage_has_one_entry_for_each_step(tmp_path: Path) -> None:
    """Prompt, cached and generated tokens of the steps are apart."""
    desk = open_desk(ScriptedHost(), tmp_path)
    run = desk.start(await desk.plan(MESSAGES, REQUEST), REQUEST)
    async for _ in desk.run(run):
        pass

    usage = usage_message(run)

    assert [step.adapter for step in usage.steps] == ["retrieve", "reason", "formalize"]
    assert list(usage.cached_tokens) == [3, 3, 5]
    assert list(usage.completion_tokens) == [2, 2, 2]
    assert not usage.replanned


def test_a_missing_version_has_the_number_0() -> None:
    """The card of a version becomes its message."""
    card = tiny_policy(version=3).card

    assert version_message(None, current=True) == pb.PolicyVersion()
    assert version_message(card, current=True).version == 3

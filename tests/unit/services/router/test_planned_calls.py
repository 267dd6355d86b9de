"""Tests of planned calls on the tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bem.engine import LLMEngine
from bem.errors import InvalidRequestError
from bem.policy.artifact import CARD_FILE, TENSORS_FILE, save_policy
from bem.testing import tiny_backbone
from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.planned_calls import PlannedCalls, open_planned_calls, unplanned
from bem_fleet.services.router.request_parsing import DEFAULT_STRENGTH
from bem_fleet.services.router.settings import RouterSettings
from bemfleet.router.v1 import router_pb2 as pb

from tests.support.policies import tiny_policy
from tests.unit.services.router.plan_hosts import DIGEST, MESSAGES, install

REQUEST = pb.GenerateRequest(
    model="router",
    chat=pb.ChatPrompt(
        messages=[pb.ChatMessage(role=MESSAGES[0]["role"], content=MESSAGES[0]["content"])]
    ),
    sampling=pb.Sampling(temperature=0),
    max_tokens=6,
    ignore_eos=True,
)


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[PlannedCalls]:
    """Planned calls of a started engine without adapters and without a policy."""
    engine = LLMEngine(tiny_backbone(), max_sequences=2, context_tokens=512)
    engine.start()
    host = ModelHost(tiny_backbone(), engine, tmp_path / "adapters")
    yield open_planned_calls(
        host, RouterSettings(policy=tmp_path / "none", policy_folder=tmp_path / "policy")
    )
    engine.close(drain=False)


async def test_stream_and_complete_answer_are_the_same(calls: PlannedCalls) -> None:
    """The first response has the plan, the last one the costs; texts and usage are equal."""
    responses = [one async for one in calls.generate(REQUEST, None, DEFAULT_STRENGTH)]
    whole = await calls.complete(REQUEST, None, DEFAULT_STRENGTH)

    assert "".join(one.text for one in responses) == whole.text
    assert responses[0].plan == whole.plan
    assert whole.plan.source == pb.PLAN_SOURCE_FIXED
    assert not any(one.HasField("plan") for one in responses[1:])
    assert list(responses[-1].plan_usage.completion_tokens) == [6]
    assert responses[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 6
    assert responses[0].model_version == whole.model_version


async def test_a_clients_plan_runs_on_the_base_model(calls: PlannedCalls) -> None:
    """Every step is counted; a step without a value is followed by a direct answer."""
    request = pb.GenerateRequest()
    request.CopyFrom(REQUEST)
    request.plan.extend(
        [pb.MacroAction(adapter="retrieve"), pb.MacroAction(adapter="general", scope="both")]
    )

    whole = await calls.complete(request, None, DEFAULT_STRENGTH)

    assert whole.plan.source == pb.PLAN_SOURCE_CLIENT
    assert len(whole.plan_usage.steps) == 2
    assert whole.usage.prompt_tokens == sum(whole.plan_usage.prompt_tokens)
    assert list(whole.plan.missing) == ["retrieve", "general"]


async def test_explaining_generates_nothing(calls: PlannedCalls, tmp_path: Path) -> None:
    """With a policy all plans that could run are listed; without one there is none."""
    fixed = await calls.explain(REQUEST, None, DEFAULT_STRENGTH)
    save_policy(tmp_path / "new", tiny_policy(base_digest=DIGEST))
    await calls.apply_update(update_from(tmp_path / "new"))

    report = await calls.explain(REQUEST, None, DEFAULT_STRENGTH)

    assert not fixed.alternatives
    assert report.source == pb.PLAN_SOURCE_POLICY
    assert [step.adapter for step in report.steps] == ["general"]
    assert any("not loaded" in other.reason for other in report.alternatives)
    with pytest.raises(InvalidRequestError, match="model"):
        await calls.explain(pb.GenerateRequest(model="alpha"), None, DEFAULT_STRENGTH)


def update_from(folder: Path) -> pb.ApplyPolicyUpdateRequest:
    """Return the update that a folder holds."""
    return pb.ApplyPolicyUpdateRequest(
        card=(folder / CARD_FILE).read_text(), tensors=(folder / TENSORS_FILE).read_bytes()
    )


async def test_versions_are_applied_listed_and_restored(
    calls: PlannedCalls, tmp_path: Path
) -> None:
    """A refusal is an answer with the measured distance."""
    first = save_policy(tmp_path / "1", tiny_policy(base_digest=DIGEST))
    accepted = await calls.apply_update(update_from(tmp_path / "1"))
    save_policy(
        tmp_path / "2", tiny_policy(base_digest=DIGEST, version=2, parent=first.sha256, nudge=3.0)
    )
    refused = await calls.apply_update(update_from(tmp_path / "2"))

    assert accepted.accepted
    assert accepted.current.sha256 == first.sha256
    assert not refused.accepted
    assert refused.distance > refused.trust_region == pytest.approx(0.01)
    assert refused.current.version == 1
    versions = (await calls.list_versions()).versions
    assert [(one.version, one.current, list(one.kl)) for one in versions] == [(1, True, [0.004])]
    assert calls.planner.version == first.sha256
    assert (await calls.restore(0)).current.version == 0
    assert (await calls.restore(1)).current.version == 1
    with pytest.raises(InvalidRequestError, match="version"):
        await calls.restore(-1)


async def test_what_is_away_is_a_warning(calls: PlannedCalls, tmp_path: Path) -> None:
    """Without a policy the fixed plan runs, and the mission says so."""
    assert any("fixed plan" in warning for warning in calls.warnings)
    assert calls.planner.version == "fixed"
    install(tmp_path / "policy", tiny_policy(base_digest=DIGEST))
    await calls.restore(1)

    assert calls.warnings == ()


def test_an_unplanned_request_is_one_of_the_base_model() -> None:
    """Only model and plan change."""
    request = pb.GenerateRequest(model="router", prompt="x", plan=[pb.MacroAction()])

    assert unplanned(request) == pb.GenerateRequest(prompt="x")

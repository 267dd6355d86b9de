"""Tests of the choice of a plan and of its run."""

from contextlib import aclosing
from pathlib import Path

import pytest
from bem.engine import GenerationRequest, Sampling
from bem.engine.plan_run import DIRECT
from bem.errors import InvalidRequestError
from bem.policy.actions import FIXED_PLAN, MacroAction
from bem_fleet.services.router.planning import PlannedRequest

from tests.support.policies import tiny_policy
from tests.unit.services.router.plan_hosts import (
    DIGEST,
    MESSAGES,
    ScriptedHost,
    install,
    open_desk,
)

REQUEST = GenerationRequest((1, 2), Sampling(temperature=0), max_tokens=9, stop=("#",), client="c")


async def test_without_a_policy_the_fixed_plan_runs(tmp_path: Path) -> None:
    """No pass over the prompt is made, and the reason is given."""
    host = ScriptedHost()

    planned = await open_desk(host, tmp_path).plan(MESSAGES, REQUEST)

    assert (planned.plan, planned.source) == (FIXED_PLAN, "fixed")
    assert "no policy" in planned.reason
    assert host.requests == []


async def test_without_the_adapters_the_answer_is_direct(tmp_path: Path) -> None:
    """The base model answers, and the missing tasks are named."""
    planned = await open_desk(ScriptedHost(names=()), tmp_path).plan(MESSAGES, REQUEST)

    assert planned.plan == (DIRECT,)
    assert planned.missing == ("retrieve", "reason", "formalize", "general")
    assert "no adapter for retrieve" in planned.reason


async def test_the_policy_sees_state_and_evidence(tmp_path: Path) -> None:
    """One greedy token of the base model pools the prompt; the choice is explained."""
    install(tmp_path, tiny_policy(base_digest=DIGEST))
    host = ScriptedHost()
    desk = open_desk(host, tmp_path)

    planned = await desk.plan(MESSAGES, REQUEST, session="s")

    (probe,) = host.requests
    assert (probe.pools_prompt, probe.max_tokens, probe.adapter, probe.stop) == (True, 1, None, ())
    assert planned.source == "policy"
    assert planned.choice is not None
    assert planned.plan == planned.choice.plan
    assert planned.policy_version == desk.store.current.card.sha256  # type: ignore[union-attr]
    assert len(planned.features) == 12
    assert planned.cached_tokens == 4


async def test_plans_with_a_missing_adapter_are_left_out(tmp_path: Path) -> None:
    """Only the task general may run on the base model."""
    install(tmp_path, tiny_policy(base_digest=DIGEST))

    planned = await open_desk(ScriptedHost(names=("reason",)), tmp_path).plan(MESSAGES, REQUEST)

    assert planned.source == "policy"
    assert [action.adapter for action in planned.plan] == ["general"]


async def test_a_clients_plan_runs_as_it_is(tmp_path: Path) -> None:
    """It is checked, and tasks without an adapter are named."""
    desk = open_desk(ScriptedHost(names=("p-reason",)), tmp_path, prefix="p-")

    planned = await desk.plan(MESSAGES, REQUEST, wanted=FIXED_PLAN)

    assert (planned.plan, planned.source) == (FIXED_PLAN, "client")
    assert planned.missing == ("retrieve", "formalize")
    with pytest.raises(InvalidRequestError, match="plan"):
        await desk.plan(MESSAGES, REQUEST, wanted=(MacroAction("reason", "values"),))


async def test_a_conversation_that_does_not_end_with_the_user_is_refused(tmp_path: Path) -> None:
    """A plan answers a question."""
    with pytest.raises(InvalidRequestError, match="user message"):
        await open_desk(ScriptedHost(), tmp_path).plan(
            [{"role": "assistant", "content": "x"}], REQUEST
        )


async def planned_run(desk_host: ScriptedHost, folder: Path) -> tuple[PlannedRequest, list[str]]:
    """Run the fixed plan and return it with the texts of the deltas."""
    desk = open_desk(desk_host, folder)
    planned = await desk.plan(MESSAGES, REQUEST)
    run = desk.start(planned, REQUEST)
    texts = [delta.text async for delta in desk.run(run)]
    assert run.reply == "".join(texts)
    assert [one.output.cached_tokens for one in run.results] == [3, 3, 5]
    return planned, texts


async def test_only_the_last_step_is_streamed(tmp_path: Path) -> None:
    """The steps run in order with their adapters; the client sees the reply alone."""
    host = ScriptedHost()

    _, texts = await planned_run(host, tmp_path)

    assert "".join(texts) == "It is 24."
    assert [one.adapter for one in host.requests] == ["retrieve", "reason", "formalize"]
    assert host.requests[-1].stop == ("#",)


async def test_closing_a_run_cancels_its_step(tmp_path: Path) -> None:
    """A client that leaves frees the engine."""
    host = ScriptedHost(names=())
    desk = open_desk(host, tmp_path)
    run = desk.start(await desk.plan(MESSAGES, REQUEST), REQUEST)

    async with aclosing(desk.run(run)) as deltas:
        await anext(deltas)

    assert host.closed == 1
    assert run.results == []

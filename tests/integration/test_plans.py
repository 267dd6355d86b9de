"""Plans over adapters, by gRPC and by the OpenAI client, with a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem.policy.artifact import CARD_FILE, TENSORS_FILE, PolicyArtifact, save_policy
from bem.testing import tiny_backbone
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet import wire
from fleet.testing import RedisServer
from grpc import aio
from redis import Redis

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router
from tests.support.policies import tiny_policy

DIGEST = tiny_backbone().digest
QUESTION = (
    "The river is 12 miles long. The lake is deep and lies behind the hill.\n\n"
    "How long is the river? Then double it. Reply only with the result."
)
REQUEST = pb.GenerateRequest(
    model="router",
    chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=QUESTION)]),
    sampling=pb.Sampling(temperature=0),
    max_tokens=6,
    ignore_eos=True,
)
TASKS = ("retrieve", "reason", "formalize")


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[aio.Channel]:
    """A channel to a router with the adapters of three tasks, and no Redis."""
    async with tiny_router(tmp_path, adapters=TASKS) as (_, opened):
        yield opened


def update_of(folder: Path, artifact: PolicyArtifact) -> pb.ApplyPolicyUpdateRequest:
    """Return a policy as an update."""
    save_policy(folder, artifact)
    return pb.ApplyPolicyUpdateRequest(
        card=(folder / CARD_FILE).read_text(), tensors=(folder / TENSORS_FILE).read_bytes()
    )


async def test_the_fixed_plan_runs_without_policy_and_redis(channel: aio.Channel) -> None:
    """The stream has the plan first and its costs last; the second request reuses the passages."""
    router: Any = rpc.RouterServiceStub(channel)
    contract: Any = mission_pb2_grpc.MissionServiceStub(channel)

    responses = [one async for one in router.Generate(REQUEST)]
    again = await router.Complete(pb.CompleteRequest(request=REQUEST))
    described = await contract.Describe(mission_pb2.DescribeRequest())

    assert responses[0].plan.source == pb.PLAN_SOURCE_FIXED
    assert [step.adapter for step in responses[0].plan.steps] == list(TASKS)
    assert "no policy" in responses[0].plan.reason
    usage = responses[-1].plan_usage
    assert len(usage.steps) in (2, 3)
    assert responses[-1].usage.prompt_tokens == sum(usage.prompt_tokens)
    assert again.text == "".join(one.text for one in responses)
    assert again.plan_usage.cached_tokens[0] >= usage.cached_tokens[0]
    assert any("fixed plan" in warning for warning in described.warnings)


async def test_a_named_adapter_is_served_as_before(channel: aio.Channel) -> None:
    """Only the model router has a plan, and a plan for another model is refused."""
    router: Any = rpc.RouterServiceStub(channel)
    named = pb.GenerateRequest()
    named.CopyFrom(REQUEST)
    named.model = "reason"

    answer = await router.Complete(pb.CompleteRequest(request=named))
    named.plan.add(adapter="general")
    with pytest.raises(aio.AioRpcError, match="plan") as caught:
        await router.Complete(pb.CompleteRequest(request=named))

    assert not answer.HasField("plan")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_policy_is_installed_explained_updated_and_restored(
    channel: aio.Channel, tmp_path: Path
) -> None:
    """An update outside the trust region is refused with its distance; the old one answers."""
    router: Any = rpc.RouterServiceStub(channel)
    first = tiny_policy(base_digest=DIGEST)
    installed = await router.ApplyPolicyUpdate(update_of(tmp_path / "first", first))
    parent = installed.current.sha256
    near = tiny_policy(base_digest=DIGEST, version=2, parent=parent, nudge=0.02)
    far = tiny_policy(base_digest=DIGEST, version=2, parent=parent, nudge=4.0)

    refused = await router.ApplyPolicyUpdate(update_of(tmp_path / "far", far))
    accepted = await router.ApplyPolicyUpdate(update_of(tmp_path / "near", near))
    explained = (await router.Plan(pb.PlanRequest(request=REQUEST))).plan
    answer = await router.Complete(pb.CompleteRequest(request=REQUEST))
    restored = await router.Restore(pb.RestoreRequest(version=1))
    listed = await router.ListPolicyVersions(pb.ListPolicyVersionsRequest())

    assert installed.accepted
    assert (refused.accepted, refused.current.version) == (False, 1)
    assert refused.distance > 0.01 >= accepted.distance > 0
    assert accepted.current.version == 2
    assert explained.source == pb.PLAN_SOURCE_POLICY
    assert explained.alternatives
    assert answer.plan.policy_version == accepted.current.sha256
    assert list(answer.plan.steps) == list(explained.steps)
    assert restored.current.sha256 == parent
    assert [(one.version, one.current) for one in listed.versions] == [(1, True), (2, False)]


def question_request(text: str, session: str = "") -> pb.GenerateRequest:
    """Return the request with another message."""
    request = pb.GenerateRequest()
    request.CopyFrom(REQUEST)
    request.session = session
    request.chat.messages[0].content = text
    return request


async def test_a_session_keeps_its_plan(channel: aio.Channel, tmp_path: Path) -> None:
    """One request that prefers another plan gets the session's; without a session it does not.

    Asking for the plan of the session's request in between changes nothing.
    """
    router: Any = rpc.RouterServiceStub(channel)
    await router.ApplyPolicyUpdate(update_of(tmp_path / "p", tiny_policy(base_digest=DIGEST)))
    plans: dict[str, tuple[str, Any]] = {}
    for length in range(1, 12):
        text = f"{'The river is long. ' * length}\n\n{'How long is it? ' * (12 - length)}"
        wanted = pb.PlanRequest(request=question_request(text))
        await router.Plan(wanted)
        # The policy reads how much of the prompt is cached; from the second call on, that stays.
        plan = (await router.Plan(wanted)).plan
        plans.setdefault(str(plan.steps), (text, plan))
    (one, first), (other, second) = list(plans.values())[:2]

    begun = await router.Complete(pb.CompleteRequest(request=question_request(one, "s")))
    await router.Plan(pb.PlanRequest(request=question_request(other, "s")))
    kept = await router.Complete(pb.CompleteRequest(request=question_request(other, "s")))
    elsewhere = await router.Complete(pb.CompleteRequest(request=question_request(other, "t")))

    assert (list(begun.plan.steps), begun.plan.held) == (list(first.steps), False)
    assert (list(kept.plan.steps), kept.plan.held) == (list(first.steps), True)
    assert (list(elsewhere.plan.steps), elsewhere.plan.held) == (list(second.steps), False)


async def test_openai_clients_plan(tmp_path: Path) -> None:
    """The planner is a model; header, stream and a plan in the body work with the client."""
    messages: Any = [{"role": "user", "content": QUESTION}]
    ask: Any = {"model": "router", "messages": messages, "temperature": 0, "max_tokens": 6}
    async with (
        tiny_router(tmp_path, adapters=TASKS) as (running, _),
        openai_client(running.address) as client,
    ):
        models = [model.id async for model in client.models.list()]
        whole = await client.chat.completions.with_raw_response.create(**ask)
        streamed = await client.chat.completions.with_raw_response.create(**ask, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed.parse()])
        own = await client.chat.completions.with_raw_response.create(
            **ask, extra_body={"plan": [{"adapter": "general"}]}
        )
        named = await client.chat.completions.with_raw_response.create(**{**ask, "model": "tiny"})

    assert models == ["tiny", *sorted(TASKS), "router"]
    plan = "retrieve/passages/suffix/0 > reason/values/prompt/0 > formalize/values/prompt/0"
    assert whole.headers[wire.PLAN] == f"{plan}; source=fixed"
    assert streamed.headers[wire.PLAN] == whole.headers[wire.PLAN]
    assert whole.parse().choices[0].message.content == text
    assert own.headers[wire.PLAN] == "general/passages/suffix/0; source=client"
    assert wire.PLAN not in named.headers


async def test_decisions_are_on_the_stream(tmp_path: Path, redis_server: RedisServer) -> None:
    """One entry for each planned request, with plan and costs and without texts."""
    redis: Any = Redis.from_url(redis_server.url)
    redis.delete(wire.DECISIONS_STREAM)
    async with tiny_router(tmp_path, adapters=TASKS, redis_url=redis_server.url) as (_, channel):
        router: Any = rpc.RouterServiceStub(channel)
        answer = await router.Complete(pb.CompleteRequest(request=REQUEST))
        for _ in range(500):
            if redis.xlen(wire.DECISIONS_STREAM):
                break
            await asyncio.sleep(0.02)
    entries = redis.xrange(wire.DECISIONS_STREAM)
    redis.close()

    (entry,) = [json.loads(fields[b"decision"]) for _, fields in entries]
    assert entry["source"] == "fixed"
    assert entry["prompt_tokens"] == answer.usage.prompt_tokens
    assert entry["completion_tokens"] == answer.usage.completion_tokens
    assert "river" not in json.dumps(entry)

"""Plans of the served adapters on the packaged model, on development questions."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.data.compositions import SPLIT_SEEDS
from bem_fleet.data.record_facts import generate_record_questions
from bem_fleet.services.router import build, servicer
from bem_fleet.services.router.settings import RouterSettings
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.clients import open_channel, wait_ready
from fleet.server import start
from grpc import aio

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 24


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[aio.Channel]:
    """A channel to a router with the committed adapters."""
    settings = RouterSettings(
        address=f"unix:{tmp_path}/r.sock",
        cache=ROOT / ".cache/models",
        kernels_cache=ROOT / ".cache/kernels",
        adapter_folder=ROOT / "adapters",
        safety=tmp_path / "none",
        policy=ROOT / "adapters/policy",
        policy_folder=tmp_path / "policies",
        redis_url="redis://127.0.0.1:1/0",
        context_tokens=1024,
        rows=8,
    )
    running = await start(settings, build.build, servicer.STATUS)
    try:
        async with open_channel(running.address) as opened:
            await wait_ready(opened, servicer.SERVICE, 240)
            yield opened
    finally:
        await running.stop()


async def answer(channel: aio.Channel, model: str, text: str) -> pb.CompleteResponse:
    """Return the greedy answer of a model to one message."""
    router: Any = rpc.RouterServiceStub(channel)
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=text)])
    request = pb.GenerateRequest(
        model=model, chat=chat, sampling=pb.Sampling(temperature=0), max_tokens=48
    )
    response: pb.CompleteResponse = await router.Complete(pb.CompleteRequest(request=request))
    return response


async def test_plans_answer_what_the_base_model_cannot(
    channel: aio.Channel,
) -> None:
    """Every task has its adapter, and plans get at least a third right that the base model misses.

    The figure of the acceptance gate is the study's; this only sees that what is served works.
    """
    records = generate_record_questions("dev", SPLIT_SEEDS["dev"].start, QUESTIONS)
    planned, alone, shared = 0, 0, 0
    for record in records:
        text = f"{record.passage}\n\n{record.question}"
        response = await answer(channel, "router", text)
        assert response.plan.source == pb.PLAN_SOURCE_POLICY
        assert not response.plan.missing
        assert 1 <= len(response.plan.steps) <= 3
        planned += response.text.strip() in record.answers
        shared += any(response.plan_usage.cached_tokens)
        base = await answer(channel, "smollm2-135m-instruct", text)
        alone += base.text.strip() in record.answers

    assert planned - alone >= QUESTIONS // 3
    assert shared


async def test_the_tutorial_shows_what_is_answered(channel: aio.Channel) -> None:
    """Question, answer and plan of the page are those of the served adapters."""
    page = (ROOT / "docs/router.md").read_text()
    question = page.split("question.txt <<'END'\n", 1)[1].split("\nEND\n", 1)[0]

    response = await answer(channel, "router", question)

    plan = " > ".join(
        f"{one.adapter}/{one.scope}/{one.span}/{one.rank_budget}" for one in response.plan.steps
    )
    assert f"```\n{response.text}\n{plan}; source=policy; p=" in page

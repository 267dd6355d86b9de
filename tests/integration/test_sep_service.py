"""Mission sep with the packaged model: embeddings by the official client, robust answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from bem_fleet.services.sep.build import build
from bem_fleet.services.sep.servicer import STATUS
from bem_fleet.services.sep.settings import SepSettings
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.sep.v1 import sep_pb2 as pb
from bemfleet.sep.v1 import sep_pb2_grpc as rpc
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.server import start

from tests.integration.openai_clients import openai_client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
MODEL = "sep-embedding"
PASSAGES = [
    "The river Rhine flows from the Alps through Basel and Cologne to the North Sea.",
    "Photosynthesis turns sunlight, water and carbon dioxide into sugar and oxygen.",
    "The treaty ended the war and gave the islands back to the kingdom.",
    "Bread dough rises because yeast makes carbon dioxide from sugar.",
]
QUESTIONS = [
    "Through which citys dose the rivr Rhine flow?",
    "WHAT DO PLANTS MAKE  FROM SUNLIGHT AND WATRE?",
    "which traety endde the  war?",
    "why dose braed duogh rise",
]


@dataclass(frozen=True)
class Sep:
    """The mission and a gateway in front of it.

    Attributes:
        stub: Stub of its own service.
        contract: Stub of its contract.
        client: OpenAI client of the gateway.
    """

    stub: Any
    contract: Any
    client: openai.AsyncOpenAI


@pytest.fixture
async def sep(tmp_path: Path) -> AsyncIterator[Sep]:
    """The mission with the committed front and the packaged model, without a sidecar."""
    settings = SepSettings(
        address=f"unix:{tmp_path}/s.sock",
        cache=ROOT / ".cache/models",
        front=ROOT / "adapters/sep",
        adapter_folder=ROOT / "adapters",
    )
    running = await start(settings, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, mission.SERVICE, 300)
            missions = {"router": running.address, "sep": running.address}
            async with openai_client(running.address, missions=missions) as client:
                contract = mission_pb2_grpc.MissionServiceStub(channel)
                yield Sep(rpc.SepServiceStub(channel), contract, client)
    finally:
        await running.stop()


async def test_official_client_gets_embeddings_in_all_forms(sep: Sep) -> None:
    """A text, a list, token ids; base64 and floats; dimensions; usage; errors by their field."""
    create: Any = sep.client.embeddings.create
    one = await create(model=MODEL, input=PASSAGES[0])
    many = await create(model=MODEL, input=PASSAGES, encoding_format="float")
    short = await create(model=MODEL, input=PASSAGES[0], dimensions=64)
    ids = await create(model=MODEL, input=[504, 8000, 12])
    lists = await create(model=MODEL, input=[[504, 8000, 12], [504]])

    first = np.array(one.data[0].embedding)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert np.allclose(first, many.data[0].embedding, atol=1e-4)
    assert [each.index for each in many.data] == [0, 1, 2, 3]
    assert many.usage.prompt_tokens == many.usage.total_tokens > one.usage.prompt_tokens > 10
    assert (ids.usage.prompt_tokens, lists.usage.prompt_tokens) == (3, 4)
    assert np.allclose(ids.data[0].embedding, lists.data[0].embedding, atol=1e-4)
    head = first[:64] / np.linalg.norm(first[:64])
    assert np.allclose(head, short.data[0].embedding, atol=1e-4)
    for fields, param in (
        ({"dimensions": 100_000}, "dimensions"),
        ({"input": [[504], [10**7]]}, "input.1"),
        ({"model": "text-embedding-3-small"}, None),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await create(**{"model": MODEL, "input": "a", **fields})
        if param:
            assert caught.value.status_code == 400
            assert caught.value.body["param"] == param  # type: ignore[index]
        else:
            assert isinstance(caught.value, openai.NotFoundError)


async def test_badly_typed_questions_find_their_passages(sep: Sep) -> None:
    """The nearest passage of each question is its own."""
    found = await sep.client.embeddings.create(model=MODEL, input=[*PASSAGES, *QUESTIONS])
    vectors = np.array([each.embedding for each in found.data])
    nearest = (vectors[4:] @ vectors[:4].T).argmax(1)

    assert nearest.tolist() == [0, 1, 2, 3]


async def test_front_is_served_and_sensitivity_is_measured(sep: Sep) -> None:
    """Answers carry the front's version; a seed repeats its rewrites; adapters run on top."""
    described = await sep.contract.Describe(mission_pb2.DescribeRequest())
    answer = await sep.stub.Generate(
        pb.GenerateRequest(prompt="Waht is the captial of Frnace?", max_tokens=12)
    )
    asked = pb.SensitivityRequest(prompt="What is the capital of France?", rewrites=3, seed=7)
    first, again = await sep.stub.Sensitivity(asked), await sep.stub.Sensitivity(asked)
    adapted = await sep.stub.Generate(
        pb.GenerateRequest(model="passage-qa", prompt="Where is Paris?", max_tokens=8)
    )

    assert not described.warnings
    assert "Paris" in answer.text
    assert answer.model_version.count("-") == 2
    assert adapted.model_version.startswith(answer.model_version + "+")
    assert 0 <= first.score <= 1
    assert list(first.rewrites) == list(again.rewrites)
    assert first.score == pytest.approx(again.score, abs=1e-3)

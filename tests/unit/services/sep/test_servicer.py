"""Servicer of mission sep without its model."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bem_fleet.services.sep.servicer import EmbedderHolder, SepServicer
from bem_fleet.services.sep.text_embedding import EmbeddedTexts
from bem_fleet.serving import GeneratedText
from bemfleet.sep.v1 import sep_pb2 as pb
from fleet.errors import InvalidArgumentError, NotFoundError, UnavailableError

CONTEXT: Any = SimpleNamespace(time_remaining=lambda: None)


class Host:
    """Gives every prompt the same answer."""

    backbone = SimpleNamespace(model_version=lambda _: "base")

    def prompt_ids(self, prompt: str, max_tokens: int) -> list[int]:
        """Accept every prompt."""
        del prompt, max_tokens
        return [1]

    async def generate(self, prompt: str, **options: Any) -> GeneratedText:
        """Return an answer of the wanted length from the model that was named."""
        del prompt
        return GeneratedText("north", options["max_tokens"], options["model"])


class Embedder:
    """Embeds every input as its length."""

    host = Host()

    async def embed(self, inputs: Any, dimensions: int | None) -> EmbeddedTexts:
        """Return one value for each input."""
        del dimensions
        lengths = [len(one) for one in inputs]
        return EmbeddedTexts(torch.tensor(lengths).float()[:, None], sum(lengths))


def servicer() -> SepServicer:
    """Return a servicer with made parts."""
    holder: Any = SimpleNamespace(get=Embedder)
    return SepServicer(holder)


async def test_requests_and_responses_are_translated() -> None:
    """Texts, ids, limits and counts reach the host, and its results come back."""
    one = servicer()
    answer = await one.Generate(
        pb.GenerateRequest(model="alpha", prompt="hello", max_tokens=5), CONTEXT
    )
    inputs = [pb.EmbedInput(text="abc"), pb.EmbedInput(tokens=pb.TokenIds(ids=[4, 5]))]
    embedded = await one.Embed(pb.EmbedRequest(inputs=inputs), CONTEXT)
    measured = await one.Sensitivity(
        pb.SensitivityRequest(prompt="1 2 3 4", rewrites=2, max_tokens=3, rate=1), CONTEXT
    )

    assert (answer.text, answer.model_version, answer.completion_tokens) == ("north", "alpha", 5)
    assert [list(each.values) for each in embedded.embeddings] == [[3], [2]]
    assert (embedded.prompt_tokens, embedded.model_version) == (5, "base")
    assert [each.kind for each in measured.rewrites] == ["whitespace", "whitespace"]
    assert (measured.answer, measured.score, measured.changed) == ("north", 0, 0)
    assert measured.completion_tokens == 9


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        ("Generate", pb.GenerateRequest(prompt="a", max_tokens=0), "max_tokens: 0 is out"),
        ("Embed", pb.EmbedRequest(), "inputs: 0 is out of range; the limits are 1 and 64"),
        ("Sensitivity", pb.SensitivityRequest(prompt="a", rewrites=9), "rewrites: 9"),
        ("Sensitivity", pb.SensitivityRequest(prompt="a", seed=-1), "seed: -1"),
        ("Sensitivity", pb.SensitivityRequest(prompt="a", max_tokens=65), "max_tokens: 65"),
        ("Sensitivity", pb.SensitivityRequest(prompt="a", rate=0), "rate: 0 is out of range"),
        ("Sensitivity", pb.SensitivityRequest(prompt="a", rate=float("nan")), "rate: nan"),
    ],
)
async def test_limits_are_named(method: str, request_: Any, message: str) -> None:
    """The error names the field, the value and the limits."""
    with pytest.raises(InvalidArgumentError, match=message):
        await getattr(servicer(), method)(request_, CONTEXT)


async def test_another_embedding_model_is_not_found_and_a_loading_one_is_unavailable() -> None:
    """The error lists the embedding model; without a model the caller is told to retry."""
    inputs = [pb.EmbedInput(text="a")]
    with pytest.raises(NotFoundError, match="model: 'other' is no embedding model; served: sep"):
        await servicer().Embed(pb.EmbedRequest(inputs=inputs, model="other"), CONTEXT)
    with pytest.raises(UnavailableError):
        await SepServicer(EmbedderHolder()).Embed(pb.EmbedRequest(inputs=inputs), CONTEXT)

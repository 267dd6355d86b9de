"""A whole engine over compiled kernels: adapters, several rows, scores."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from bem.engine import LLMEngine, Sampling, ScoreRequest, generate, score

from tests.unit.bem.engine.engines import encode, make_engine, write_adapters
from tests.unit.bem.engine.native.kernels import packed


@pytest.fixture(scope="module", params=["int8", "int4"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LLMEngine]:
    """A running engine with two adapters."""
    made = make_engine(
        packed(request.param), write_adapters(tmp_path_factory.mktemp("adapters")), waiting=4
    )
    made.start()
    yield made
    made.close(drain=False)


def test_answers_together_are_those_alone(engine: LLMEngine) -> None:
    """Prompts of unequal lengths with unlike adapters are answered as each is alone."""
    prompts = [f"prompt {n} " + "x" * (9 * n % 70) for n in range(9)]
    adapters = [(None, "alpha", "beta")[n % 3] for n in range(9)]

    together = generate(engine, prompts, adapters, max_tokens=12, progress=False)

    for prompt, adapter, one in zip(prompts, adapters, together, strict=True):
        (alone,) = generate(engine, [prompt], adapter, max_tokens=12, progress=False)
        # The prefix cache has the prompt by then.
        assert replace(alone, cached_tokens=one.cached_tokens) == one


@pytest.mark.parametrize("adapter", [None, "alpha", "beta"])
def test_scores_are_the_logprobs_that_an_answer_was_given_with(
    engine: LLMEngine, adapter: str | None
) -> None:
    """Scoring generated texts beside each other gives what generation reported, to rounding."""
    prompts = [encode("tell me something long"), encode("and now something else entirely")]
    asked = Sampling(temperature=0.8, seed=3, logprobs=0)
    said = generate(engine, prompts, adapter, sampling=asked, max_tokens=100, progress=False)
    wanted = [[one.logprob for one in answer.logprobs] for answer in said]
    requests = [
        ScoreRequest(prompt, tuple(one.token for one in answer.logprobs), adapter)
        for prompt, answer in zip(prompts, said, strict=True)
    ]

    found = score(engine, requests, progress=False)

    for mine, given in zip(found, wanted, strict=True):
        assert mine == pytest.approx(given, abs=1e-4)

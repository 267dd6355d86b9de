"""Tests of offline generation and scoring."""

from collections.abc import Iterator

import pytest
import torch
from bem.engine import GenerationRequest, LLMEngine, Sampling, ScoreRequest, generate, score
from bem.errors import AdapterNotFoundError, BemError, InvalidRequestError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import GREEDY, encode, make_engine, submit, write_adapters


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLMEngine]:
    """A running engine with two adapters."""
    made = make_engine(
        tiny_backbone(), write_adapters(tmp_path_factory.mktemp("adapters")), waiting=4
    )
    made.start()
    yield made
    made.close(drain=False)


def test_answers_come_in_the_order_of_their_prompts(engine: LLMEngine) -> None:
    """More prompts than the queue holds, each with its adapter, as texts or ids."""
    prompts = [f"prompt {n} " + "x" * (n % 7) for n in range(20)]
    adapters = [(None, "alpha", "beta")[n % 3] for n in range(20)]
    found = generate(engine, prompts, adapters, max_tokens=6, progress=False)
    again = generate(engine, [encode(prompt) for prompt in prompts], adapters, max_tokens=6)
    single = GenerationRequest(encode(prompts[7]), GREEDY, max_tokens=6, adapter=adapters[7])

    assert found == again
    assert found[7].text == submit(engine, single)[0].text()
    assert [one.prompt_tokens for one in found] == [len(encode(prompt)) for prompt in prompts]


def test_wrong_adapters_are_named(engine: LLMEngine) -> None:
    """One adapter for all or one a prompt; an unknown one ends the run."""
    with pytest.raises(InvalidRequestError, match="1 for 2 prompts"):
        generate(engine, ["a", "b"], ["alpha"])
    with pytest.raises(AdapterNotFoundError):
        generate(engine, ["a", "b"], "nobody", progress=False)


def test_scores_are_those_of_transformers(engine: LLMEngine) -> None:
    """Log-likelihoods of the base model, whatever else is in the batch."""
    texts = ["once upon a time there was", "hi", "the end of it all, " * 4]
    requests = [ScoreRequest(encode(text)[:1], encode(text)[1:]) for text in texts]
    found = score(engine, requests, batch_tokens=128, progress=False)
    model = tiny_backbone().model
    for text, values in zip(texts, found, strict=True):
        ids = torch.tensor([encode(text)])
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        expected = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
        assert values == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("adapter", [None, "alpha", "beta"])
def test_scores_of_an_answer_are_the_logprobs_it_was_given_with(
    engine: LLMEngine, adapter: str | None
) -> None:
    """Scoring a generated text gives what generation reported, over several chunks of codes."""
    prompt = encode("tell me something long")
    asked = Sampling(temperature=0.8, seed=3, logprobs=0)
    said = generate(engine, [prompt], adapter, sampling=asked, max_tokens=150, progress=False)[0]
    tokens = tuple(one.token for one in said.logprobs)
    given = [one.logprob for one in said.logprobs]

    assert len(tokens) == said.completion_tokens
    found = score(engine, [ScoreRequest(prompt, tokens, adapter)], progress=False)
    assert found[0] == pytest.approx(given, abs=1e-3)


def test_scores_do_not_depend_on_their_batch(engine: LLMEngine) -> None:
    """Adapters and lengths of other texts change nothing."""
    requests = [
        ScoreRequest(
            encode("a question " * (1 + n % 4)), encode("an answer" * (1 + n % 3)), adapter
        )
        for n, adapter in enumerate([None, "alpha", "beta", "alpha", None, "beta"] * 3)
    ]
    alone = [score(engine, [request], progress=False)[0] for request in requests]
    together = score(engine, requests, batch_tokens=256, progress=False)

    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    "request_", [ScoreRequest((), (1,)), ScoreRequest((1,), ()), ScoreRequest((1,), (2,) * 600)]
)
def test_text_that_cannot_be_scored_is_named(engine: LLMEngine, request_: ScoreRequest) -> None:
    """An empty part or more than the context is refused, and the engine lives on."""
    with pytest.raises(InvalidRequestError, match="each needs 1"):
        score(engine, [request_], progress=False)
    with pytest.raises(BemError):
        score(engine, [ScoreRequest((1,), (2,), "nobody")], progress=False)
    assert score(engine, [ScoreRequest((1,), (2,))], progress=False)


def test_logprobs_cover_exactly_the_text(engine: LLMEngine) -> None:
    """Tokens that a stop text cuts off are not reported; their bytes are the text."""
    tokenizer = engine.backbone.tokenizer
    letters = set(tokenizer.encode("abcdefghijklmnopqrstuvwxyz "))
    others = tuple((token, -100.0) for token in range(len(tokenizer)) if token not in letters)
    asked = Sampling(temperature=0, logprobs=3, logit_bias=others)
    whole = generate(engine, ["stop here"], sampling=asked, max_tokens=40, progress=False)[0]
    spelt = b"".join(one.text for one in whole.logprobs).decode(errors="replace")

    assert spelt == whole.text
    assert all(len(one.top) == 3 and one.top[0].logprob >= one.logprob for one in whole.logprobs)
    stop = whole.text[8:10]
    cut = generate(engine, ["stop here"], sampling=asked, max_tokens=40, stop=[stop])[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert b"".join(one.text for one in cut.logprobs).decode(errors="replace") == cut.text

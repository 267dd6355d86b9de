"""Tests of the output stream of one request."""

import torch
from bem.engine import GenerationRequest, OutputDelta, Sampling
from bem.testing import tiny_backbone
from torch import Tensor

from tests.unit.bem.engine.engines import encode
from tests.unit.bem.engine.sequences import stream_of

VOCABULARY = len(tiny_backbone().tokenizer)


def logits_for(token: int) -> Tensor:
    """Logits whose most probable token is given."""
    logits = torch.zeros(VOCABULARY)
    logits[token] = 10
    return logits


def request(
    max_tokens: int = 8, logprobs: int | None = None, stop: tuple[str, ...] = ()
) -> GenerationRequest:
    """A greedy request."""
    sampling = Sampling(temperature=0, logprobs=logprobs)
    return GenerationRequest((1,), sampling, max_tokens, stop)


def spelled(deltas: list[OutputDelta | Exception]) -> str:
    """Return the text of all deltas."""
    return "".join(one.text for one in deltas if isinstance(one, OutputDelta))


def test_text_and_version_come_with_each_delta() -> None:
    """Every delta names the adapter version; the last one has the finish reason."""
    stream, deltas = stream_of(request(max_tokens=2), version="abc")
    tokens = encode("ab")
    results = [stream.sample_next(logits_for(token), context_left=True) for token in tokens]

    assert results == [tokens[0], None]
    assert spelled(deltas) == "ab"
    assert [one.adapter_version for one in deltas if isinstance(one, OutputDelta)] == ["abc"] * 2
    assert isinstance(deltas[-1], OutputDelta)
    assert (deltas[-1].finish, deltas[-1].completion_tokens) == ("length", 2)


def test_an_end_token_is_not_counted() -> None:
    """The end token finishes the request and is no part of the output."""
    stream, deltas = stream_of(request())
    end = min(tiny_backbone().end_token_ids)

    assert stream.sample_next(logits_for(end), context_left=True) is None
    assert stream.generated_tokens == 0
    assert isinstance(deltas[0], OutputDelta)
    assert (deltas[0].text, deltas[0].finish) == ("", "stop")


def test_a_full_context_ends_the_output() -> None:
    """Without room for another token the finish reason is the length."""
    stream, deltas = stream_of(request())

    assert stream.sample_next(logits_for(encode("a")[0]), context_left=False) is None
    assert isinstance(deltas[0], OutputDelta)
    assert deltas[0].finish == "length"


def test_logprobs_leave_with_their_text() -> None:
    """Log-probabilities of buffered text wait until the text is released."""
    stream, deltas = stream_of(request(logprobs=1, stop=("ax",)))
    for token in encode("ab"):
        stream.sample_next(logits_for(token), context_left=True)

    assert len(deltas) == 1
    assert isinstance(deltas[0], OutputDelta)
    assert deltas[0].text == "ab"
    assert [one.text for one in deltas[0].logprobs] == [b"a", b"b"]

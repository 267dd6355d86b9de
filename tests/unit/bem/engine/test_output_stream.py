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


END = min(tiny_backbone().end_token_ids)


def favour(first: int, second: int) -> Tensor:
    """Logits whose two most probable tokens are given."""
    logits = logits_for(second)
    logits[first] = 20
    return logits


def test_end_token_is_banned_until_the_minimum() -> None:
    """The end token is most probable throughout; the next one is sampled instead at first."""
    letter = encode("a")[0]
    stream, deltas = stream_of(
        GenerationRequest((1,), Sampling(temperature=0), max_tokens=8, min_tokens=2)
    )
    tokens = [stream.sample_next(favour(END, letter), context_left=True) for _ in range(3)]

    assert tokens == [letter, letter, None]
    assert spelled(deltas) == "aa"


def test_stops_before_the_minimum_are_text() -> None:
    """A stop string or token within the first tokens does not end the output; a later one does."""
    letter, other = encode("a")[0], encode("b")[0]
    request_ = GenerationRequest(
        (1,),
        Sampling(temperature=0),
        max_tokens=8,
        stop=("a",),
        min_tokens=2,
        stop_token_ids=frozenset({other}),
    )
    stream, deltas = stream_of(request_)
    tokens = [stream.sample_next(favour(other, letter), context_left=True) for _ in range(3)]

    assert tokens == [letter, letter, None]
    assert spelled(deltas) == "aa"
    assert isinstance(deltas[-1], OutputDelta)
    assert deltas[-1].finish == "stop"


def test_ignored_end_token_is_a_token_like_others() -> None:
    """Only the limit ends the output; a stop token still ends it."""
    request_ = GenerationRequest((1,), Sampling(temperature=0), max_tokens=2, ignore_eos=True)
    stream, deltas = stream_of(request_)
    tokens = [stream.sample_next(logits_for(END), context_left=True) for _ in range(2)]
    stopping, stopped = stream_of(
        GenerationRequest(
            (1,), Sampling(temperature=0), ignore_eos=True, stop_token_ids=frozenset({END})
        )
    )

    assert tokens == [END, None]
    assert isinstance(deltas[-1], OutputDelta)
    assert (deltas[-1].finish, deltas[-1].completion_tokens) == ("length", 2)
    assert stopping.sample_next(logits_for(END), context_left=True) is None
    assert isinstance(stopped[-1], OutputDelta)
    assert (stopped[-1].finish, stopped[-1].completion_tokens) == ("stop", 0)

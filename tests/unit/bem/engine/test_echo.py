"""Echoed prompts: the log-probabilities of their tokens are those of the model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling, TokenLogprob
from bem.engine.scoring import ScoreRequest
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import encode, make_engine, submit, write_adapters

TEXT = "the river runs to the sea, and the sea is never full; " * 7  # several prefill chunks
TOLERANCE = 1e-4


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LLMEngine]:
    """A running engine with two adapters and a prefix cache."""
    made = make_engine(tiny_backbone(), write_adapters(tmp_path))
    made.start()
    yield made
    made.close(drain=False)


def echoed(text: str = TEXT, *, top: int = 2, **changed: object) -> GenerationRequest:
    """A greedy request that echoes its prompt and generates nothing."""
    sampling = Sampling(temperature=0, logprobs=top)
    request = GenerationRequest(encode(text), sampling, max_tokens=0, echo=text)
    return replace(request, **changed)  # type: ignore[arg-type] # fields of the class


def entries(deltas: list[OutputDelta]) -> list[TokenLogprob]:
    """Return the log-probabilities of all deltas."""
    return [one for delta in deltas for one in delta.logprobs]


def assert_equal(found: list[TokenLogprob], text: str) -> None:
    """Compare the log-probabilities of a text with those of transformers' model."""
    ids = torch.tensor([encode(text)])
    with torch.inference_mode():
        expected = tiny_backbone().model(ids).logits[0].float().log_softmax(-1)
    assert [one.token for one in found] == list(encode(text))
    assert found[0].unconditioned
    assert not found[0].top
    assert not any(one.unconditioned for one in found[1:])
    for row, one in zip(expected, found[1:], strict=False):
        assert one.logprob == pytest.approx(float(row[one.token]), abs=TOLERANCE)
        values, _ = row.topk(2)
        assert [top.logprob for top in one.top] == pytest.approx(values.tolist(), abs=TOLERANCE)


def test_chunked_and_cached_prompts_have_transformers_log_probabilities(engine: LLMEngine) -> None:
    """The first call computes the prompt in chunks, the second one finds it in the prefix cache."""
    first = submit(engine, echoed())[0].deltas()
    reused = engine.counters.reused_lower_tokens
    second = submit(engine, echoed())[0].deltas()

    for deltas in (first, second):
        assert_equal(entries(deltas), TEXT)
        assert "".join(one.text for one in deltas) == TEXT
        assert (deltas[-1].finish, deltas[-1].completion_tokens) == ("length", 0)
    assert engine.counters.reused_lower_tokens > reused
    assert engine.counters.reused_tokens == 0


def test_the_cache_that_an_echo_fills_serves_other_requests(engine: LLMEngine) -> None:
    """The answer behind an echoed prompt is that of a request without echo, from cached blocks."""
    submit(engine, echoed())[0].deltas()
    plain = echoed(max_tokens=12, echo=None)
    answer = submit(engine, plain)[0].text()
    deltas = submit(engine, replace(plain, echo=TEXT))[0].deltas()

    assert engine.counters.reused_tokens > 0
    assert "".join(one.text for one in deltas) == TEXT + answer
    found = entries(deltas)
    assert len(found) == len(encode(TEXT)) + deltas[-1].completion_tokens
    assert_equal(found[: len(encode(TEXT))], TEXT)


def test_rows_of_one_batch_do_not_mix(engine: LLMEngine) -> None:
    """Prompts of different lengths are computed together, with rows that generate beside them."""
    texts = ["a", "ab", TEXT[:70], TEXT, TEXT[:200]]
    other = submit(engine, echoed("once", echo=None, max_tokens=30))[0]
    readers = [submit(engine, echoed(text))[0] for text in texts]

    for text, reader in zip(texts, readers, strict=True):
        assert_equal(entries(reader.deltas()), text)
    assert other.text()


def test_adapters_score_as_the_scorer_does(engine: LLMEngine) -> None:
    """The code is that of the whole prompt, which is computed from its lower half."""
    found = entries(submit(engine, echoed(adapter="alpha"))[0].deltas())
    base = entries(submit(engine, echoed())[0].deltas())
    ids = encode(TEXT)
    first_code = engine.score([ScoreRequest(ids[:-1], ids[-1:], "alpha")]).result(60)[0]

    assert max(abs(a.logprob - b.logprob) for a, b in zip(found, base, strict=True)) > 0.01
    assert found[-1].logprob == pytest.approx(first_code[0], abs=0.05)


def test_an_echo_without_log_probabilities_is_only_text(engine: LLMEngine) -> None:
    """Then the prefix cache serves the upper half too."""
    request = echoed(sampling=Sampling(temperature=0), max_tokens=1)
    for _ in range(2):
        deltas = submit(engine, request)[0].deltas()
        assert "".join(one.text for one in deltas).startswith(TEXT)
        assert entries(deltas) == []
    assert engine.counters.reused_tokens > 0


def test_an_end_token_behind_the_prompt_has_an_entry(engine: LLMEngine) -> None:
    """Clients cut off the entry of the one token that they asked for, whatever it is."""
    (end, *_) = tiny_backbone().end_token_ids
    sampling = Sampling(temperature=0, logprobs=1, logit_bias=((end, 100.0),))
    deltas = submit(engine, echoed("ab", sampling=sampling, max_tokens=1))[0].deltas()

    assert (deltas[-1].finish, deltas[-1].completion_tokens) == ("stop", 0)
    assert [one.token for one in entries(deltas)] == [*encode("ab"), end]


def test_no_tokens_are_only_for_an_echo() -> None:
    """A request that neither generates nor echoes is refused."""
    with pytest.raises(InvalidRequestError, match="or 0 with echo"):
        echoed(echo=None)

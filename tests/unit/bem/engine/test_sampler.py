"""Tests of the sampler: the effect of each setting on the next token."""

import numpy as np
import pytest
import torch
from bem.engine import Sampling
from bem.engine import sampler as sampler_module
from bem.engine.sampler import Sampler, exponentials
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])


def shares(sampling: Sampling, logits: Tensor = LOGITS, draws: int = 4000) -> Tensor:
    """Return how often each token is drawn by a sampler that never remembers."""
    sampler = Sampler(sampling)
    counts = torch.zeros(len(logits))
    for _ in range(draws):
        counts[sampler._sample_id(logits)] += 1
    return counts / draws


def test_temperature_draws_in_proportion_to_the_softmax() -> None:
    """Shares of draws are the softmax of the scaled logits."""
    found = shares(Sampling(temperature=0.7, seed=1))

    assert torch.allclose(found, (LOGITS / 0.7).softmax(0), atol=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=2, seed=1), 2),
        (Sampling(top_p=0.6, seed=1), 2),
        (Sampling(top_p=0.5, seed=1), 1),
        (Sampling(top_k=3, top_p=0.99, seed=1), 3),
        (Sampling(top_k=99, seed=1), 5),
    ],
)
def test_only_the_kept_tokens_are_drawn(sampling: Sampling, kept: int) -> None:
    """Beyond top-k and the nucleus nothing is drawn; inside, proportions stay."""
    found = shares(sampling)
    expected = LOGITS.softmax(0)
    expected[kept:] = 0

    assert torch.allclose(found, expected / expected.sum(), atol=0.03)


def test_nucleus_larger_than_the_sorted_part_is_whole() -> None:
    """A flat distribution needs more tokens than are sorted first, and gets them."""
    flat = torch.zeros(4096)
    sampler = Sampler(Sampling(top_p=0.999, seed=3))
    drawn = {sampler._sample_id(flat) for _ in range(3000)}

    assert len(drawn) > 1500


@given(prompt=st.lists(st.integers(0, 4), max_size=4), penalty=st.floats(0.5, 2))
def test_repetition_penalty_is_that_of_transformers(prompt: list[int], penalty: float) -> None:
    """Logits of seen tokens are divided when positive and multiplied when negative."""
    from transformers import RepetitionPenaltyLogitsProcessor

    sampler = Sampler(Sampling(temperature=0, repetition_penalty=penalty), prompt)
    reference = LOGITS
    if prompt:
        processor = RepetitionPenaltyLogitsProcessor(penalty)
        reference = processor(torch.tensor([prompt]), LOGITS[None].clone())[0]

    assert torch.allclose(sampler._apply_penalties(LOGITS), reference)


def test_presence_and_frequency_count_what_was_said() -> None:
    """Two times token 0 lowers it by presence once and frequency twice."""
    sampler = Sampler(Sampling(temperature=0, presence_penalty=0.1, frequency_penalty=0.2))
    said = [sampler.sample(LOGITS).token for _ in range(2)]

    assert said == [0, 0]
    assert torch.allclose(
        LOGITS - sampler._apply_penalties(LOGITS), torch.tensor([0.5, 0, 0, 0, 0])
    )


def test_bias_bans_and_forces_but_logprobs_stay_the_models() -> None:
    """Bias decides the token; the reported probabilities are those before it."""
    bias = ((0, -100.0), (4, 100.0))
    choice = Sampler(Sampling(temperature=0, logit_bias=bias, logprobs=2)).sample(LOGITS)
    expected = LOGITS.log_softmax(0)

    assert choice.token == 4
    assert choice.logprob == pytest.approx(float(expected[4]), abs=1e-5)
    assert [token for token, _ in choice.top] == [0, 1]
    assert [value for _, value in choice.top] == pytest.approx(expected[:2].tolist(), abs=1e-5)


def test_same_seed_draws_the_same() -> None:
    """A seed fixes all draws, whatever path they take."""
    for sampling in (Sampling(seed=5), Sampling(seed=5, top_p=0.9), Sampling(seed=5, top_k=3)):
        first, second = Sampler(sampling), Sampler(sampling)
        assert [first.sample(LOGITS) for _ in range(20)] == [
            second.sample(LOGITS) for _ in range(20)
        ]


@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.95}, {"top_k": 400}, {"top_k": 400, "top_p": 0.95}]
)
def test_rounding_of_logits_seldom_changes_the_draw(settings: dict[str, float]) -> None:
    """Rows that run beside a request change the last bits of its logits, and near ties swap."""
    generator = torch.Generator().manual_seed(11)
    sampling = Sampling(temperature=1.2, seed=3, **settings)  # type: ignore[arg-type]
    first, second = Sampler(sampling), Sampler(sampling)
    changed = 0
    for _ in range(1000):
        logits = torch.randn(8000, generator=generator)
        noise = 1e-4 * torch.randn(8000, generator=generator)
        changed += first.sample(logits).token != second.sample(logits + noise).token

    assert changed <= 5


def test_noise_is_exponential_and_independent_of_id_step_and_seed() -> None:
    """Neighbouring ids, steps and seeds share nothing."""
    ids = np.arange(20_000)
    first, second = (exponentials(ids, key) for key in (1, 2))

    assert stats.kstest(first, "expon").pvalue > 0.01
    for one, other in ((first, second), (first[:-1], first[1:])):
        assert abs(stats.spearmanr(one, other).statistic) < 0.03
    drawn = [
        [sampler._draw(torch.full((1000,), 1e-3), torch.arange(1000)) for _ in range(500)]
        for sampler in (Sampler(Sampling(seed=seed)) for seed in (7, 8, -7))
    ]
    assert abs(stats.spearmanr(drawn[0][1:], drawn[1][:-1]).statistic) < 0.2
    assert all(len({one[step] for one in drawn}) > 1 for step in range(20))


def test_noise_is_positive_and_finite_for_all_random_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extremes of the uniform numbers are neither 0 nor 1."""
    extremes = np.array([0, 2**64 - 1], np.uint64)
    monkeypatch.setattr(sampler_module, "_mix", lambda _: extremes)
    noise = exponentials(np.arange(2), 0)

    assert np.isfinite(noise).all()
    assert (noise > 0).all()


@given(
    min_p=st.floats(0.0, 1.0),
    logits=st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12, unique=True),
)
def test_min_p_keeps_the_tokens_that_transformers_keeps(min_p: float, logits: list[float]) -> None:
    """Every draw is a token whose probability is at least that share of the largest one."""
    from transformers import MinPLogitsWarper

    found = torch.tensor(logits)
    kept = torch.isfinite(MinPLogitsWarper(min_p)(torch.zeros(1, 0), found[None].clone())[0])
    sampler = Sampler(Sampling(min_p=min_p, seed=1))

    assert all(kept[sampler._sample_id(found)] for _ in range(30))


def test_min_p_of_one_is_greedy_and_small_values_keep_much() -> None:
    """The share is relative to the most likely token."""
    assert shares(Sampling(min_p=1.0, seed=2), draws=200)[0] == 1
    # The probabilities are 0.56, 0.21, 0.13, 0.08 and 0.03 of the whole.
    assert (shares(Sampling(min_p=0.2, seed=2)) > 0).tolist() == [True, True, True, False, False]


def test_banned_tokens_are_never_sampled_and_no_bias_lifts_that() -> None:
    """The reported probabilities stay the model's own."""
    sampler = Sampler(Sampling(temperature=0, logit_bias=((0, 100.0),), logprobs=1))
    choice = sampler.sample(LOGITS, {0, 1})

    assert choice.token == 2
    assert choice.logprob == pytest.approx(float(LOGITS.log_softmax(0)[2]), abs=1e-5)
    assert choice.top[0][0] == 0

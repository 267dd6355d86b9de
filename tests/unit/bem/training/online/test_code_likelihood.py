"""Tests of the decoder's likelihoods as functions of a code."""

from dataclasses import replace

import pytest
import torch
from bem.online.feedback import FeedbackExample
from bem.testing import tiny_backbone
from bem.training.online.code_likelihood import DecoderLikelihood
from torch import Tensor

from tests.support.tiny_bank import WIDTH, tiny_bank, tiny_feedback

CODE = torch.linspace(-0.5, 0.5, WIDTH)
NO_TEACHERS = [None] * 3


def model(row_tokens: int = 2048) -> DecoderLikelihood:
    """Return the likelihoods of the tiny model."""
    return DecoderLikelihood(tiny_backbone(), tiny_bank(), feature_layer=0, row_tokens=row_tokens)


def plain_nll(code: Tensor, one: FeedbackExample) -> float:
    """Return the negative log-likelihood by transformers, with weights that hold the code."""
    network, bank = tiny_backbone().model, tiny_bank()
    with torch.no_grad():
        for path, (a, b) in bank.adapter_factors(code).items():
            network.get_submodule(path).weight += bank.scale * b @ a
        ids = torch.tensor([[*one.prompt, *one.reply]])
        words = torch.log_softmax(network(ids).logits[0], -1)
    first = len(one.prompt) - 1
    return -sum(float(words[first + at, word]) for at, word in enumerate(one.reply))


def test_likelihoods_are_those_of_merged_weights() -> None:
    """The code acts at each site as its own merged update would."""
    examples = tiny_feedback(3)
    losses = model().losses(CODE, examples, NO_TEACHERS, gradients=False)

    expected = torch.tensor([plain_nll(CODE, one) for one in examples], dtype=torch.float64)
    torch.testing.assert_close(losses.nll, expected, rtol=1e-4, atol=1e-4)
    assert losses.tokens.tolist() == [len(one.reply) for one in examples]
    assert losses.nll_gradients is None


def test_gradients_are_those_of_each_example_alone() -> None:
    """Packed together or apart, gradients equal central differences of the example's own loss."""
    examples = tiny_feedback(3)
    whole = model()
    teachers = whole.teachers(torch.zeros(WIDTH), examples)
    together = whole.losses(CODE, examples, teachers, gradients=True)
    alone = model(row_tokens=1).losses(CODE, examples, teachers, gradients=True)
    assert together.nll_gradients is not None
    assert together.hint_gradients is not None
    assert alone.nll_gradients is not None

    torch.testing.assert_close(together.nll_gradients, alone.nll_gradients, rtol=1e-3, atol=1e-4)
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(4))
    up, down = (
        whole.losses(CODE + step * direction, examples, teachers, gradients=False)
        for step in (3e-3, -3e-3)
    )
    for name in ("nll", "hint"):
        slopes = getattr(together, f"{name}_gradients") @ direction.double()
        numeric = (getattr(up, name) - getattr(down, name)) / 6e-3
        torch.testing.assert_close(slopes, numeric, rtol=0.02, atol=0.02)


def test_teacher_is_the_hinted_model() -> None:
    """An example without a hint has no teacher; at the teacher's own prompt the loss is 0."""
    examples = tiny_feedback(3)
    teachers = model().teachers(CODE, examples)

    assert [one is None for one in teachers] == [False, True, True]
    own = replace(examples[0], prompt=examples[0].hinted)
    losses = model().losses(CODE, [own], teachers[:1], gradients=False)
    assert abs(float(losses.hint)) < 1e-4
    other = model().losses(CODE, examples[:1], teachers[:1], gradients=False)
    assert float(other.hint) > 0.01


@pytest.mark.slow
def test_drawn_replies_have_scores_of_mean_zero() -> None:
    """Scores average to 0 over many draws, the same seed repeats them, another one does not."""
    examples = tiny_feedback(2)
    scores = model().scores(CODE, examples, draws=100, seed=5)
    spread = scores.std(1) / 100**0.5

    assert scores.shape == (2, 100, WIDTH)
    assert bool((scores.mean(1).abs() < 5 * spread + 1e-6).all())
    few = model().scores(CODE, examples, draws=2, seed=5)
    assert few.equal(model().scores(CODE, examples, draws=2, seed=5))
    assert not few.equal(model().scores(CODE, examples, draws=2, seed=6))


def test_divergence_from_the_live_version() -> None:
    """It is 0 for the live code itself, and the divergence of the distributions for another."""
    examples = tiny_feedback(2)

    assert abs(model().divergence(CODE, CODE, examples)) < 1e-5
    assert model().divergence(CODE, torch.zeros(WIDTH), examples) > 1e-3


def test_states_are_pooled_over_the_prompt() -> None:
    """A key is the mean state of the feature layer, whatever other prompts are encoded with it."""
    prompts = [[5, 6, 7], [9], [1, 2]]
    with torch.no_grad():
        layers = (
            tiny_backbone()
            .model.model(torch.tensor(prompts[:1]), output_hidden_states=True)
            .hidden_states
        )

    states = model().states(prompts)
    assert states.shape == (3, 32)
    torch.testing.assert_close(states[0], layers[1][0].mean(0), rtol=1e-4, atol=1e-5)


def test_code_of_zeros_is_the_base_model() -> None:
    """Likelihoods are those of the model without a bank."""
    one = tiny_feedback(1)[0]
    losses = model().losses(torch.zeros(WIDTH), [one], [None], gradients=False)

    torch.testing.assert_close(
        float(losses.nll), plain_nll(torch.zeros(WIDTH), one), rtol=1e-4, atol=1e-4
    )

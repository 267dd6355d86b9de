"""Tests of the controller: a fresh one is plain LoRA, an uncertain one the base model."""

from typing import Any

import torch
from bem.controller import Controller, mean_pool


def test_fresh_controller_is_plain_lora() -> None:
    """Code one, no uncertainty, no token refinement; chunks are smoothed."""
    controller = Controller(8, 4)
    features = torch.randn(3, 8)
    ones = torch.ones(3, 4)

    assert torch.equal(controller.prefix(features), ones)
    assert torch.equal(controller.uncertainty(features), torch.zeros(3, 1))
    assert torch.equal(controller.token(torch.randn(3, 5, 8), ones), torch.ones(3, 5, 4))
    assert torch.allclose(controller.chunk(features, 0 * ones), 0.3 * ones)
    assert controller.is_constant()


def test_uncertainty_shrinks_the_code_to_the_base() -> None:
    """The larger the uncertainty, the closer the code is to zero."""
    controller = Controller(8, 4)
    with torch.no_grad():
        controller.unsure.bias.fill_(20.0)

    assert controller.prefix(torch.randn(2, 8)).abs().max() < 1e-4
    assert controller.is_constant()
    with torch.no_grad():
        controller.unsure.weight.fill_(1.0)
    assert not controller.is_constant()


def test_codes_stay_in_their_range() -> None:
    """Whatever the weights are, a prefix code lies in [0, 2] and differs between prompts."""
    torch.manual_seed(0)
    controller = Controller(8, 4)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.normal_(0, 2)
    codes = controller.prefix(torch.randn(50, 8))

    assert codes.min() >= 0
    assert codes.max() <= 2
    assert codes.std(0).min() > 0


def test_mean_pool_ignores_masked_tokens() -> None:
    """The mean is over the mask; an empty mask gives zero instead of a division by zero."""
    hidden = torch.tensor([[[1.0], [3.0], [9.0]], [[1.0], [1.0], [1.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])

    assert mean_pool(hidden, mask).tolist() == [[2.0], [0.0]]


def test_a_rank_mask_keeps_the_largest_gates() -> None:
    """Of a code k gates stay as they are, along all chunks; without a mask all stay."""
    torch.manual_seed(0)
    masked, plain = Controller(8, 6, active=2), Controller(8, 6)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(0, 1)
    masked.load_state_dict(plain.state_dict())
    features = torch.randn(5, 8)
    code, whole = masked.prefix(features), plain.prefix(features)

    assert code.ne(0).sum(-1).tolist() == [2] * 5
    assert torch.equal(code.topk(2).values, whole.topk(2).values)
    assert masked.chunk(torch.randn(5, 8), code).ne(0).sum(-1).max() <= 2
    total: Any = code.sum()
    total.backward()
    assert masked.code.weight.grad is not None
    assert masked.code.weight.grad.abs().max() > 0

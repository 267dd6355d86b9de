"""Tests of the chunked cross entropy."""

import torch
from bem.training.loss import CHUNK_TOKENS, ChunkedCrossEntropy
from torch.nn.functional import cross_entropy


def test_chunked_cross_entropy_is_cross_entropy() -> None:
    """Value and gradient over several chunks are those of all logits at once."""
    torch.manual_seed(0)
    states = torch.randn(CHUNK_TOKENS + 7, 8, requires_grad=True)
    head, labels = torch.randn(30, 8), torch.randint(30, (CHUNK_TOKENS + 7,))
    expected = cross_entropy(states @ head.T, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(expected, states)
    found = ChunkedCrossEntropy.apply(states, head, labels)

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, states)[0], gradient)


def test_without_gradients_only_the_value_is_computed() -> None:
    """Evaluation works on states that need no gradient."""
    states, head = torch.eye(2), torch.eye(2)
    found = ChunkedCrossEntropy.apply(states, head, torch.tensor([0, 1]))

    torch.testing.assert_close(found, cross_entropy(head, torch.tensor([0, 1]), reduction="sum"))

"""Tests of the chunked cross entropy."""

import pytest
import torch
from bem.training import loss
from bem.training.loss import ChunkedCrossEntropy
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize("logits", [1, 30, 150, 10_000])
def test_chunked_cross_entropy_is_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, logits: int
) -> None:
    """Value and gradient over several chunks are those of all logits at once."""
    monkeypatch.setattr(loss, "CHUNK_LOGITS", logits)
    torch.manual_seed(0)
    states = torch.randn(27, 8, requires_grad=True)
    head, labels = torch.randn(30, 8), torch.randint(30, (27,))
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


def test_a_chunk_has_as_many_logits_for_any_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 262k takes the memory of one of 49k."""
    sizes = []

    def record(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states) * len(head))
        return torch.zeros(len(states), len(head))

    monkeypatch.setattr(loss, "linear", record)
    for vocabulary in (49_152, 262_144):
        labels = torch.zeros(600, dtype=torch.int64)
        ChunkedCrossEntropy.apply(torch.zeros(600, 1), torch.zeros(vocabulary, 1), labels)

    assert max(sizes) <= loss.CHUNK_LOGITS
    assert len(sizes) == 2 + 7

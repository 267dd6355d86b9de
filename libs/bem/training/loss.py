"""Chunked cross entropy over a large vocabulary that never materialises all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

CHUNK_LOGITS = 512 * 49_152
"""Logits that are in memory at once: 100 MB in float32, whatever the vocabulary's size is."""


class ChunkedCrossEntropy(Function):
    """Summed cross entropy of a frozen head; the forward pass also computes the gradient.

    This is the idea of Cut Your Losses (arXiv 2411.09009), here in chunks of tokens: 512 with a
    vocabulary of 49k, 96 with one of 262k. The logits of all tokens of a step would take gigabytes.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        """Return the sum over tokens, float32.

        Args:
            ctx: Context of autograd.
            states: ``[N, F]``, after the final norm.
            head: ``[V, F]``, frozen.
            labels: ``[N]`` int64 in ``[0, V)``.
        """
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        size = max(1, CHUNK_LOGITS // head.shape[0])
        for start in range(0, len(labels), size):
            logits = linear(states[start : start + size], head).float()
            targets = labels[start : start + size].unsqueeze(1)
            log_sum = logits.logsumexp(1, keepdim=True)
            total += (log_sum - logits.gather(1, targets)).sum()
            if grad is not None:
                # The gradient of the logits is softmax minus one-hot; it reuses their memory.
                probabilities = logits.sub_(log_sum).exp_()
                probabilities.scatter_add_(1, targets, -torch.ones_like(log_sum))
                torch.mm(probabilities.to(head.dtype), head, out=grad[start : start + size])
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient that the forward pass computed."""
        (states,) = ctx.saved_tensors
        return states * grad.to(states.dtype), None, None

"""Cross entropy against a large vocabulary, without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

CHUNK = 512


class HeadLoss(Function):
    """Sum of the cross entropies of a frozen head; the gradient is made on the way forward.

    As in Cut Your Losses (arXiv 2411.09009), here by chunks of tokens: with 49k words and
    float32 logits a chunk of 512 takes 100 MB, a whole step would take gigabytes.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        """Return the sum over tokens, float32.

        Args:
            ctx: Autograd's.
            states: ``[N, F]``, after the final norm.
            head: ``[V, F]``, frozen.
            labels: ``[N]`` int64 in ``[0, V)``.
        """
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for at in range(0, len(labels), CHUNK):
            logits = linear(states[at : at + CHUNK], head).float()
            wanted = labels[at : at + CHUNK].unsqueeze(1)
            log_sum = logits.logsumexp(1, keepdim=True)
            total += (log_sum - logits.gather(1, wanted)).sum()
            if grad is not None:
                share = logits.sub_(log_sum).exp_()
                share.scatter_add_(1, wanted, -torch.ones_like(log_sum))
                torch.mm(share.to(head.dtype), head, out=grad[at : at + CHUNK])
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Scale what the forward pass made."""
        (states,) = ctx.saved_tensors
        return states * grad.to(states.dtype), None, None

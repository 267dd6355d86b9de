"""Conjugate gradient for a symmetric positive semi-definite operator."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(
    multiply: Callable[[Tensor], Tensor],
    target: Tensor,
    *,
    iterations: int = 10,
    tolerance: float = 1e-10,
) -> Tensor:
    """Return x with ``F x = target`` approximately; F is given by its products alone.

    Started at 0, the iterates stay in the range of F, so that directions that do not change the
    distribution (a constant added to all logits) stay 0.

    Args:
        multiply: Product of F with a vector ``[n]``.
        target: Right-hand side ``[n]``.
        iterations: Most iterations.
        tolerance: Squared norm of the residual, relative to the target's, at which to stop.
    """
    solution = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    squared = residual.dot(residual)
    limit = tolerance * squared
    for _ in range(iterations):
        if squared <= limit or squared == 0:
            break
        product = multiply(direction)
        curvature = direction.dot(product)
        if curvature <= 0:  # rounding in a direction without curvature
            break
        step = squared / curvature
        solution = solution + step * direction
        residual = residual - step * product
        new_squared = residual.dot(residual)
        direction = residual + new_squared / squared * direction
        squared = new_squared
    return solution

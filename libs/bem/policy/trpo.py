"""Trust region policy optimisation (arXiv 1502.05477) of a categorical policy.

One update solves ``F x = g`` by conjugate gradient on Fisher-vector products, scales x to the
boundary of the trust region, and backtracks until the measured divergence is within it and the
surrogate has improved. If no step of the line search does, the policy stays as it was.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from bem.errors import InvalidSettingError
from bem.policy.conjugate_gradient import conjugate_gradient
from bem.policy.network import entropy, kl_divergence


@dataclass(frozen=True)
class TrpoSettings:
    """Settings of an update.

    Attributes:
        max_kl: Bound of the mean divergence KL(old || new) of an update, nats.
        damping: Multiple of the identity that is added to the Fisher matrix.
        iterations: Iterations of the conjugate gradient.
        backtrack: Factor of the step between two tries of the line search, in (0, 1).
        tries: Most tries of the line search.
        entropy_bonus: Weight of the mean entropy in the objective.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    max_kl: float = 0.01
    damping: float = 0.1
    iterations: int = 10
    backtrack: float = 0.8
    tries: int = 10
    entropy_bonus: float = 0.01

    def __post_init__(self) -> None:
        positive = self.max_kl > 0 and self.iterations > 0 and self.tries > 0
        if not positive or not 0 < self.backtrack < 1 or min(self.damping, self.entropy_bonus) < 0:
            raise InvalidSettingError(
                "trpo: max_kl, iterations and tries are above 0, backtrack lies in (0, 1), damping "
                f"and entropy_bonus are at least 0; got {self}"
            )


@dataclass(frozen=True, eq=False)
class TrpoBatch:
    """Steps of episodes under the policy that is updated.

    Attributes:
        features: ``[N, F]`` states.
        masks: ``[N, A]`` allowed actions.
        actions: ``[N]`` actions taken.
        advantages: ``[N]`` advantages of the actions.
    """

    features: Tensor
    masks: Tensor
    actions: Tensor
    advantages: Tensor


@dataclass(frozen=True)
class TrpoUpdate:
    """Record of one update.

    Attributes:
        kl: Measured mean divergence of the new policy from the old one, nats; 0 if rejected.
        surrogate: Improvement of the objective; 0 if rejected.
        entropy: Mean entropy of the new policy, nats.
        backtracks: Tries of the line search that were refused.
        accepted: Whether the policy changed.
    """

    kl: float
    surrogate: float
    entropy: float
    backtracks: int
    accepted: bool


def update_policy(policy: nn.Module, batch: TrpoBatch, settings: TrpoSettings) -> TrpoUpdate:
    """Update a policy in place by one step within the trust region.

    Args:
        policy: Maps features and masks to log-probabilities ``[N, A]``.
        batch: Steps of episodes under this policy.
        settings: Trust region and line search.
    """
    with torch.no_grad():
        old: Tensor = policy(batch.features, batch.masks)
    direction = natural_gradient(policy, batch, settings)
    multiply = fisher_product(policy, batch, damping=settings.damping)
    curvature = float(direction.dot(multiply(direction)))
    if not curvature > 0 or not math.isfinite(curvature):
        return TrpoUpdate(0.0, 0.0, float(entropy(old).mean()), 0, accepted=False)
    full_step = direction * math.sqrt(2 * settings.max_kl / curvature)
    return _line_search(policy, batch, settings, old, full_step)


def natural_gradient(policy: nn.Module, batch: TrpoBatch, settings: TrpoSettings) -> Tensor:
    """Return ``(F + damping I)^-1 g`` as one vector in the order of the policy's parameters."""
    with torch.no_grad():
        old: Tensor = policy(batch.features, batch.masks)
    gain = _objective(policy(batch.features, batch.masks), old, batch, settings)
    gradient = _flatten(torch.autograd.grad(gain, list(policy.parameters())))
    multiply = fisher_product(policy, batch, damping=settings.damping)
    return conjugate_gradient(multiply, gradient, iterations=settings.iterations)


def fisher_product(
    policy: nn.Module, batch: TrpoBatch, *, damping: float
) -> Callable[[Tensor], Tensor]:
    """Return the function ``v -> (F + damping I) v``, F the Fisher matrix of the policy.

    F is the Hessian of the mean KL(old || new) at new = old; the product needs two backward passes
    and never forms F.
    """
    parameters = list(policy.parameters())
    new: Tensor = policy(batch.features, batch.masks)
    divergence = kl_divergence(new.detach(), new).mean()
    slope = _flatten(torch.autograd.grad(divergence, parameters, create_graph=True))

    def multiply(vector: Tensor) -> Tensor:
        grads = torch.autograd.grad(slope.dot(vector), parameters, retain_graph=True)
        return _flatten(grads) + damping * vector

    return multiply


def _line_search(
    policy: nn.Module, batch: TrpoBatch, settings: TrpoSettings, old: Tensor, full_step: Tensor
) -> TrpoUpdate:
    parameters = list(policy.parameters())
    before = parameters_to_vector(parameters).detach().clone()
    start = float(_objective(old, old, batch, settings))
    for attempt in range(settings.tries):
        vector_to_parameters(before + settings.backtrack**attempt * full_step, parameters)
        with torch.no_grad():
            new: Tensor = policy(batch.features, batch.masks)
        kl = float(kl_divergence(old, new).mean())
        gain = float(_objective(new, old, batch, settings)) - start
        if math.isfinite(kl) and kl <= settings.max_kl and gain > 0:
            # Rounding makes the divergence of nearly equal distributions negative.
            return TrpoUpdate(max(kl, 0.0), gain, float(entropy(new).mean()), attempt, True)
    vector_to_parameters(before, parameters)
    return TrpoUpdate(0.0, 0.0, float(entropy(old).mean()), settings.tries, accepted=False)


def _objective(new: Tensor, old: Tensor, batch: TrpoBatch, settings: TrpoSettings) -> Tensor:
    """Return the surrogate ``mean(pi / pi_old A)`` with the entropy bonus."""
    taken = batch.actions.unsqueeze(-1)
    ratios = (new.gather(-1, taken) - old.gather(-1, taken)).exp().squeeze(-1)
    return (ratios * batch.advantages).mean() + settings.entropy_bonus * entropy(new).mean()


def _flatten(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])

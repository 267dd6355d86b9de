"""Value head: a logistic risk classifier on a hidden state that serving computes anyway."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

_LBFGS_STEPS = 100
_MIN_SPREAD = 1e-3
# Smallest distance in logits between the values 0 and 1.
_MIN_RAMP = 0.5


class ValueHead(nn.Module):
    """Scores a request's risk from the mean state of a low layer over its prompt.

    A logistic probe (the first, cheap stage of arXiv 2601.04603) with a dead zone and a ceiling.
    At or below the logit ``threshold`` the value is exactly 0, so a benign request runs the base
    model bit for bit at any safety strength. From the logit ``full`` on the value is 1, with a
    linear ramp between. Features are standardised with the statistics of the fitting data.

    Args:
        feature_dim: Width F of the features.
    """

    center: Tensor
    spread: Tensor
    threshold: Tensor
    full: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("center", torch.zeros(feature_dim))
        self.register_buffer("spread", torch.ones(feature_dim))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("full", torch.ones(()))

    def logit(self, features: Tensor) -> Tensor:
        """Map ``features [R, F]`` to the risk logit, ``[R]``."""
        out: Tensor = self.linear((features - self.center) / self.spread).squeeze(-1)
        return out

    def forward(self, features: Tensor) -> Tensor:
        """Map ``features [R, F]`` to the value ``[R]`` in [0, 1]; 0 up to the threshold."""
        share = (self.logit(features) - self.threshold) / (self.full - self.threshold)
        return share.clamp(0, 1)

    def fit(self, features: Tensor, risky: Tensor, *, decay: float = 3e-2) -> None:
        """Fit the probe by L-BFGS: logistic regression with L2 penalty and balanced classes.

        Args:
            features: ``[S, F]``.
            risky: ``[S]`` bool.
            decay: Weight of the penalty ``|w|^2``.

        Raises:
            ValueError: All samples are of one class.
        """
        labels = risky.float()
        if not 0 < labels.sum() < len(labels):
            raise ValueError(
                "risky: one class is missing; a value head needs both risky and harmless requests"
            )
        self.center.copy_(features.mean(0))
        self.spread.copy_(features.std(0) + _MIN_SPREAD)
        weight = torch.where(risky, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
        optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=_LBFGS_STEPS, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(self.logit(features), labels, weight=weight)
            loss = loss + decay * self.linear.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    @torch.no_grad()
    def calibrate(self, threshold: float, risky: Tensor, *, below: float = 0.25) -> None:
        """Set the threshold, and the ceiling on risky requests that the probe was not fitted on.

        Args:
            threshold: Logit up to which the value is 0.
            risky: ``[S, F]``; a share ``below`` of those above the threshold gets less than 1.
            below: Share in [0, 1].
        """
        self.threshold.fill_(threshold)
        risky_logits = self.logit(risky)
        # Risky requests below the threshold are missed anyway; they must not lower the ceiling.
        risky_logits = risky_logits[risky_logits > self.threshold]
        ceiling = risky_logits.quantile(below) if len(risky_logits) else self.threshold
        self.full.copy_(torch.maximum(ceiling, self.threshold + _MIN_RAMP))

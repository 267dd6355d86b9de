"""The value head: how risky a request is, from a hidden state that serving computes anyway."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

_STEPS = 100
_LEAST_SPREAD = 1e-3
# Of the logit between no value and all of it.
_LEAST_SLOPE = 0.5


class ValueHead(nn.Module):
    """Scores a request's risk from the mean state of a low layer over its prompt.

    A logistic probe (the first, cheap stage of arXiv 2601.04603) with a dead zone and a ceiling:
    at or below the logit ``threshold`` the value is exactly 0, so that a benign request runs the
    base model bit for bit whatever the strength says; from ``full`` on it is 1, linear between.
    The features are standardised as the requests were that it was fitted on.

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
        """Map ``features [R, F]`` to the logit of the risk, ``[R]``."""
        out: Tensor = self.linear((features - self.center) / self.spread).squeeze(-1)
        return out

    def forward(self, features: Tensor) -> Tensor:
        """Map ``features [R, F]`` to the value ``[R]`` in [0, 1]: 0 up to the threshold."""
        share = (self.logit(features) - self.threshold) / (self.full - self.threshold)
        return share.clamp(0, 1)

    def fit(self, features: Tensor, risky: Tensor, *, decay: float = 3e-2) -> None:
        """Fit the probe: logistic regression with a ridge, by L-BFGS; the classes weigh the same.

        Args:
            features: ``[S, F]``.
            risky: ``[S]`` bool.
            decay: Weight of ``|w|^2``.

        Raises:
            ValueError: Only one class is there.
        """
        labels = risky.float()
        if not 0 < labels.sum() < len(labels):
            raise ValueError("a value head needs risky and harmless requests; one kind is missing")
        self.center.copy_(features.mean(0))
        self.spread.copy_(features.std(0) + _LEAST_SPREAD)
        weight = torch.where(risky, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
        optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(self.logit(features), labels, weight=weight)
            loss = loss + decay * self.linear.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    @torch.no_grad()
    def calibrate(
        self, harmless: Tensor, risky: Tensor, *, false_positives: float = 0.02, below: float = 0.25
    ) -> float:
        """Set dead zone and ceiling on requests that the probe was not fitted on.

        Args:
            harmless: ``[S, F]``; at most ``false_positives`` of them get a value above 0.
            risky: ``[S, F]``; of those above the dead zone, ``below`` of them get less than 1.
            false_positives: Share in [0, 1).
            below: Share in [0, 1].

        Returns:
            The threshold, a logit.
        """
        quiet = self.logit(harmless).sort().values
        self.threshold.copy_(quiet[len(quiet) - 1 - int(false_positives * len(quiet))])
        loud = self.logit(risky)
        loud = loud[loud > self.threshold]
        ceiling = loud.quantile(below) if len(loud) else self.threshold
        self.full.copy_(torch.maximum(ceiling, self.threshold + _LEAST_SLOPE))
        return float(self.threshold)

"""Objective of an update: losses of feedback examples as functions of a code, to second order.

The loss of a correction is its mean negative log-likelihood a token, plus the divergence from the
hinted teacher; that of a rated reply is the preference loss. The curvature of the likelihoods is
their Fisher matrix, estimated from tokens that are drawn from the model itself: the scores of the
drawn tokens of one reply are independent, so that the outer product of their sum has the
expectation of the sum of the tokens' Fisher matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bem.errors import InvalidSettingError
from bem.online.distillation import TeacherTargets
from bem.online.feedback import FeedbackExample
from bem.online.preference import PreferenceTerms, preference_terms

Teachers = Sequence[TeacherTargets | None]
"""Targets of each example; None for one without a hint."""


@dataclass(frozen=True, eq=False)
class ExampleLosses:
    """Losses of N examples under one code.

    Attributes:
        nll: ``[N]`` float64 summed negative log-likelihoods of the replies, nats.
        hint: ``[N]`` float64 mean divergence from the teacher a token; 0 without a teacher.
        tokens: ``[N]`` float64 numbers of reply tokens.
        nll_gradients: ``[N, P]`` float64 gradients of ``nll``; None if only values were asked for.
        hint_gradients: ``[N, P]`` float64 gradients of ``hint``; None likewise.
    """

    nll: Tensor
    hint: Tensor
    tokens: Tensor
    nll_gradients: Tensor | None = None
    hint_gradients: Tensor | None = None


class CodeLikelihood(Protocol):
    """A model whose likelihoods depend on a code."""

    def losses(
        self,
        code: Tensor,
        examples: Sequence[FeedbackExample],
        teachers: Teachers,
        *,
        gradients: bool,
    ) -> ExampleLosses:
        """Return the losses of examples under a code ``[P]``."""

    def scores(
        self, code: Tensor, examples: Sequence[FeedbackExample], *, draws: int, seed: int
    ) -> Tensor:
        """Return gradients of log-likelihoods of replies drawn by the model, ``[N, draws, P]``."""

    def teachers(self, code: Tensor, examples: Sequence[FeedbackExample]) -> Teachers:
        """Return the targets of the hinted model under a code ``[P]``."""


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights of the losses.

    Attributes:
        hint: Weight of the divergence from the hinted teacher.
        preference: Weight of the preference loss.
        beta: Factor of the log-ratio in the preference loss.
        draws: Replies that are drawn for each example's Fisher matrix.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    hint: float = 1.0
    preference: float = 0.5
    beta: float = 0.1
    draws: int = 4

    def __post_init__(self) -> None:
        if min(self.hint, self.preference) < 0 or not self.beta > 0 or self.draws < 1:
            raise InvalidSettingError(
                "objective: hint and preference are at least 0, beta above 0 and draws at least 1; "
                f"got {self}"
            )


class FeedbackObjective:
    """Weighted sum of the losses of fixed examples.

    Args:
        model: Model whose likelihoods depend on a code.
        examples: Examples; their weights are applied.
        live: ``[P]`` code of the live version: reference of rated replies and teacher of hints.
        settings: Weights of the losses.
    """

    def __init__(
        self,
        model: CodeLikelihood,
        examples: Sequence[FeedbackExample],
        live: Tensor,
        settings: ObjectiveSettings,
    ) -> None:
        self.model, self.examples, self.settings = model, list(examples), settings
        self._weights = torch.tensor([one.weight for one in examples], dtype=torch.float64)
        self._signs = torch.tensor([_SIGNS[one.kind] for one in examples], dtype=torch.float64)
        self._corrections = self._signs == 0
        hinted = settings.hint > 0 and any(one.hinted for one in examples)
        self._teachers = model.teachers(live, examples) if hinted else [None] * len(self.examples)
        self._live = self._losses(live, gradients=False).nll

    def value(self, code: Tensor) -> float:
        """Return the objective at a code ``[P]``, nats."""
        return self._value(self._losses(code, gradients=False))

    def gradient(self, code: Tensor) -> tuple[float, Tensor]:
        """Return the objective and its gradient ``[P]`` at a code."""
        losses = self._losses(code, gradients=True)
        if losses.nll_gradients is None or losses.hint_gradients is None:
            raise InvalidSettingError("losses: the model returned no gradients, which were asked")
        rated = self._rated(losses).slopes * self.settings.preference
        slopes = torch.where(self._corrections, 1 / losses.tokens, rated)
        hinted = self._corrections * self.settings.hint
        gradient = (self._weights * slopes) @ losses.nll_gradients
        return self._value(losses), gradient + (self._weights * hinted) @ losses.hint_gradients

    def curvature(self, code: Tensor, *, seed: int) -> Tensor:
        """Return the positive semi-definite curvature ``[P, P]`` at a code.

        Args:
            code: ``[P]`` code.
            seed: Seed of the drawn replies; the same seed gives the same matrix.
        """
        draws = self.settings.draws
        losses = self._losses(code, gradients=bool(self._signs.any()))
        scores = self.model.scores(code, self.examples, draws=draws, seed=seed).double()
        hinted = torch.tensor([float(one is not None) for one in self._teachers]).double()
        # A divergence from fixed targets has the curvature of the likelihood.
        shares = self._weights * (1 + self.settings.hint * hinted) / losses.tokens
        shares = (shares * self._corrections / draws).repeat_interleave(draws)
        flat = scores.flatten(0, 1)
        curvature = flat.T @ (flat * shares[:, None])
        if losses.nll_gradients is not None:
            bend = self._weights * ~self._corrections * self.settings.preference
            bend = bend * self._rated(losses).curvatures
            curvature += losses.nll_gradients.T @ (losses.nll_gradients * bend[:, None])
        return curvature

    def _value(self, losses: ExampleLosses) -> float:
        taught = losses.nll / losses.tokens + self.settings.hint * losses.hint
        rated = self.settings.preference * self._rated(losses).values
        return float(self._weights.dot(torch.where(self._corrections, taught, rated)))

    def _rated(self, losses: ExampleLosses) -> PreferenceTerms:
        return preference_terms(losses.nll, self._live, self._signs, beta=self.settings.beta)

    def _losses(self, code: Tensor, *, gradients: bool) -> ExampleLosses:
        return self.model.losses(code, self.examples, self._teachers, gradients=gradients)


_SIGNS = {"correction": 0.0, "good": 1.0, "bad": -1.0}

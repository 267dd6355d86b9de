"""Features of a policy's state: the prompt's pooled state, evidence, memory and cache.

The state of a step consists of the item's features, which this module computes, and the features
of the node in the plan tree, which hold the stage and the previous action.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.controller.whitening import whitening_axes
from bem.errors import InvalidSettingError

_WORD = re.compile(r"\w+")
EVIDENCE_WIDTH = 8


@dataclass(frozen=True)
class Evidence:
    """What a request offers beside its text.

    Attributes:
        passages: Passages or record sentences of the request.
        question: Question of the request.
        memory: Whether a memory answered for the session.
        cached_share: Share of the shared prefix whose keys and values are cached, in [0, 1].
    """

    passages: tuple[str, ...]
    question: str
    memory: bool = False
    cached_share: float = 0.0

    def features(self) -> Tensor:
        """Return ``[8]`` retrieval, memory and cache features, each about in [0, 1]."""
        question = set(_words(self.question))
        shares = sorted(
            (len(question & set(_words(one))) / max(1, len(question)) for one in self.passages),
            reverse=True,
        )
        best = shares[0] if shares else 0.0
        second = shares[1] if len(shares) > 1 else 0.0
        return torch.tensor([
            best,
            best - second,
            min(1.0, len(self.passages) / 16),
            min(1.0, sum(len(one) for one in self.passages) / 4096),
            min(1.0, len(self.question) / 512),
            self.question.count("?") / 2,
            float(self.memory),
            self.cached_share,
        ])  # fmt: skip


class FeatureProjection:
    """Principal components of the pooled states of training prompts.

    Args:
        mean: ``[D]`` mean state.
        axes: ``[D, K]`` components, scaled so that each has unit variance.

    Raises:
        InvalidSettingError: The shapes do not match.
    """

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        if mean.dim() != 1 or axes.dim() != 2 or len(mean) != len(axes):
            raise InvalidSettingError(
                f"projection: mean {tuple(mean.shape)} and axes {tuple(axes.shape)} do not match; "
                "[D] and [D, K] are needed"
            )
        self.mean = mean.float()
        self.axes = axes.float()

    @property
    def state_width(self) -> int:
        """Width D of the pooled states."""
        return len(self.mean)

    @property
    def width(self) -> int:
        """Number of features that ``features`` makes."""
        return self.axes.shape[1] + EVIDENCE_WIDTH

    def features(self, state: Tensor, evidence: Evidence) -> Tensor:
        """Return the item's features ``[K + 8]``.

        Args:
            state: ``[D]`` mean hidden state of the prompt at the feature layer.
            evidence: What the request offers.
        """
        projected = (state.float() - self.mean) @ self.axes
        # One odd prompt must not saturate the network.
        return torch.cat([projected.clamp(-4, 4), evidence.features()])


def fit_projection(states: Tensor, components: int) -> FeatureProjection:
    """Return the projection on the leading principal components of ``states [N, D]``.

    Args:
        states: Pooled states of training prompts, N at least 2.
        components: Number of components; at most N and D are used.

    Raises:
        InvalidSettingError: There are fewer than two states.
    """
    mean, axes = whitening_axes(states, components)
    return FeatureProjection(mean, axes)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]

"""Phases of training: a clamped backbone, then a thaw group by group whenever the loss is flat.

In phase 0 only the front trains. Each plateau of the development loss opens one more group, from
the front upwards, until all are open or the clean perplexity has risen beyond its limit.
"""

import math
from dataclasses import dataclass

from bem.errors import InvalidSettingError


@dataclass(frozen=True)
class ThawSettings:
    """Settings of the thaw.

    Attributes:
        groups: Number of groups of parameters, the front among them.
        patience: Observations without improvement that make a plateau.
        least_gain: Smallest improvement of the loss that counts, at least 0.
        clean_rise: Largest rise of the clean perplexity over the first observation, as a share.

    Raises:
        InvalidSettingError: A number is out of its range.
    """

    groups: int
    patience: int = 4
    least_gain: float = 0.0
    clean_rise: float = 0.01

    def __post_init__(self) -> None:
        if min(self.groups, self.patience) < 1 or min(self.least_gain, self.clean_rise) < 0:
            raise InvalidSettingError(
                "thaw: groups and patience are at least 1, least_gain and clean_rise at least 0; "
                f"got {self}"
            )


@dataclass(frozen=True)
class ThawState:
    """Position in the thaw; a checkpoint stores it.

    Attributes:
        opened: Number of groups that train, the front among them.
        best: Lowest loss since the last group was opened.
        stale: Observations since then without improvement.
        first_clean: Clean loss of the first observation, nats a token; NaN before it.
        stopped: Whether the clean perplexity exceeded its limit, which ends the training.
    """

    opened: int = 1
    best: float = math.inf
    stale: int = 0
    first_clean: float = math.nan
    stopped: bool = False


def observe_losses(
    state: ThawState, settings: ThawSettings, *, loss: float, clean_loss: float
) -> ThawState:
    """Return the state after an observation on development data.

    Args:
        state: State before it.
        settings: Settings of the thaw.
        loss: Loss whose plateau opens a group, such as the divergence of scrambled views.
        clean_loss: Negative log-likelihood of clean text, nats a token.
    """
    first = clean_loss if math.isnan(state.first_clean) else state.first_clean
    # A ratio of perplexities is a difference of losses. NaN compares as false: it stops too.
    stopped = not clean_loss - first <= math.log1p(settings.clean_rise)
    if loss < state.best - settings.least_gain:
        return ThawState(state.opened, loss, 0, first, stopped)
    stale = state.stale + 1
    if stale < settings.patience or state.opened == settings.groups:
        return ThawState(state.opened, state.best, stale, first, stopped)
    return ThawState(state.opened + 1, math.inf, 0, first, stopped)

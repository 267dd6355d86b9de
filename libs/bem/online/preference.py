"""Preference loss of rated replies, unpaired and relative to the live version.

``-log sigmoid(sign beta (log p(reply) - log p_live(reply)))``: the logistic loss of DPO (arXiv
2305.18290) with one reply instead of a pair, sign 1 for a good reply and -1 for a bad one. It
saturates, so that a bad reply is not pushed away without bound.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as f


@dataclass(frozen=True, eq=False)
class PreferenceTerms:
    """Loss as a function of a reply's summed negative log-likelihood.

    Attributes:
        values: ``[N]`` losses, nats.
        slopes: ``[N]`` first derivatives.
        curvatures: ``[N]`` second derivatives, at least 0.
    """

    values: Tensor
    slopes: Tensor
    curvatures: Tensor


def preference_terms(nll: Tensor, live: Tensor, signs: Tensor, *, beta: float) -> PreferenceTerms:
    """Return the losses of rated replies with their derivatives.

    Args:
        nll: ``[N]`` summed negative log-likelihoods under the code, nats.
        live: ``[N]`` the same under the live version.
        signs: ``[N]`` 1 for a good reply, -1 for a bad one.
        beta: Factor of the log-ratio, above 0.
    """
    margins = signs * beta * (live - nll)
    against = torch.sigmoid(-margins)
    return PreferenceTerms(
        values=f.softplus(-margins),
        slopes=signs * beta * against,
        curvatures=beta**2 * against * (1 - against),
    )

"""The compiled kernels of this machine, and what they do to inputs."""

import pytest
from bem.engine.native import Library, choose
from torch import Tensor
from torch.nn.functional import pad


def library() -> Library:
    """Return the compiled library, or skip with the reason why there is none."""
    choice = choose("auto")
    if choice.library is None:
        pytest.skip(choice.reason)
    return choice.library


def levels(x: Tensor) -> Tensor:
    """Return each 32 inputs of a row on the scale of 127 levels, before rounding, in float64."""
    groups = pad(x, (0, -x.shape[-1] % 32)).view(-1, 32).double()
    scaled: Tensor = groups / (groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127)
    return scaled.view(*x.shape[:-1], -1)


def tied(x: Tensor) -> Tensor:
    """Tell of each row whether an input lies where float32 may round it the other way."""
    scaled = levels(x)
    close: Tensor = (scaled - scaled.floor() - 0.5).abs() < 1e-4
    return close.any(-1)


def rounded(x: Tensor) -> Tensor:
    """Round each 32 inputs of a row to 127 levels of their largest value, in float64."""
    inputs = x.shape[-1]
    groups = pad(x, (0, -inputs % 32)).view(-1, 32).double()
    steps = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    whole: Tensor = (groups / steps).round() * steps
    return whole.view(*x.shape[:-1], -1)[..., :inputs]

"""Surface front: low-rank updates of the lower layers that undo typing errors, case and spacing.

The front has no code of its own for each request, so that ``W + s B A`` can be folded into the
weights: a folded front costs no time, and adapters of the upper layers run on top of it. Only the
weights that it changes become copies; all others stay the pages that processes share.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from bem.adapters.site import TARGET_MODULES
from bem.backbone import Backbone
from bem.errors import ArtifactFormatError

FrontFactors = dict[str, tuple[Tensor, Tensor]]
"""``{site path: (A [r, d_in], B [d_out, r])}`` of a front."""


def site_paths(layers: range) -> list[str]:
    """Return the module paths of a front's sites, lowest layer first."""
    return [f"model.layers.{layer}.{path}" for layer in layers for path in TARGET_MODULES.values()]


def fresh_factors(backbone: Backbone, layers: range, rank: int, seed: int) -> FrontFactors:
    """Return trainable factors of a front that changes nothing yet: B is zero.

    Args:
        backbone: Base model.
        layers: Decoder layers of the front.
        rank: Rank of the factors.
        seed: Seed of A, whose entries have the variance ``1 / d_in``.
    """
    generator = torch.Generator().manual_seed(seed)
    factors: FrontFactors = {}
    for path in site_paths(layers):
        module = backbone.model.get_submodule(path)
        a = torch.randn(rank, module.in_features, generator=generator) * module.in_features**-0.5
        b = torch.zeros(module.out_features, rank)
        factors[path] = (nn.Parameter(a), nn.Parameter(b))
    return factors


@torch.no_grad()
def fold_front(
    backbone: Backbone, factors: FrontFactors, scale: float, *, version: str
) -> Backbone:
    """Return the base model with a front in its weights, under its own version.

    Args:
        backbone: Base model without adapter sites, in the format that it was loaded in; it is
            changed and must not be used again.
        factors: Factors of the front.
        scale: Factor s of the low-rank products.
        version: Version of the front; responses carry it in their model version.

    Raises:
        ArtifactFormatError: A factor does not fit its weight.
    """
    for path, (a, b) in factors.items():
        module = backbone.model.get_submodule(path)
        if (b.shape[0], a.shape[1]) != tuple(module.weight.shape) or a.shape[0] != b.shape[1]:
            raise ArtifactFormatError(
                f"{path}: factors {tuple(a.shape)} and {tuple(b.shape)} do not fit a weight of "
                f"{tuple(module.weight.shape)}; use the front of this base model"
            )
        update = scale * (b.float() @ a.float()).to(module.weight.device)
        folded = (module.weight.float() + update).to(module.weight.dtype)
        module.weight = nn.Parameter(folded, requires_grad=False)
    return replace(backbone, folded=version)

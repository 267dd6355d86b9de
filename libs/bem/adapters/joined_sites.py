"""Joined sites: adapter sites of linear layers whose outputs one frozen matrix computes together.

Example: the queries, keys and values of a layer come from one product, ``[R, T, Q + 2 K]``. A LoRA
of ``k_proj`` changes its columns Q to Q + K only.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from bem.adapters.site import BemSite


class JoinedSites:
    """A frozen product plus the low-rank terms of the layers that it joins.

    Args:
        product: Maps ``[R, T, d_in]`` to the outputs of all layers, side by side.
        modules: The layers in the order of their outputs; those that are no sites add nothing.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], modules: Sequence[Any]) -> None:
        self._product = product
        self._parts: list[tuple[BemSite, slice]] = []
        begin = 0
        for module in modules:
            site = module if isinstance(module, BemSite) else None
            end = begin + (site.B.shape[1] if site else module.out_features)
            if site:
                self._parts.append((site, slice(begin, end)))
            begin = end

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``x [R, T, d_in]`` to ``[R, T, d_out]``; the product where nothing is active."""
        y = self._product(x)
        for site, columns in self._parts:
            part = y[..., columns]
            adapted = site.add_to(part, x)
            if adapted is not part:
                y[..., columns] = adapted
        return y


def add_sites(
    product: Callable[[Tensor], Tensor], modules: Sequence[Any]
) -> Callable[[Tensor], Tensor]:
    """Return a product with the sites among the layers that it joins; itself without sites."""
    if not any(isinstance(module, BemSite) for module in modules):
        return product
    return JoinedSites(product, modules)

"""Sites in all linear layers of a model, for any LoRA: an adapter whose code is constant.

The adapters that a controller drives have their sites in ``o_proj`` and ``down_proj`` of the upper
layers, so that the lower half can be computed, cached and read by controllers without them. A LoRA
needs no controller. It may adapt every linear layer of every layer; then keys and values of the
lower half are its own too, and it shares no block of them with other adapters.

Both kinds use the same slots. The sites of this module have no place among the site factors of
compositions: an adapter that adapts them runs alone.
"""

from collections.abc import Collection

import torch

from bem.adapters.row_codes import RowCodes
from bem.adapters.site import LINEAR_MODULES, BemSite, install_sites
from bem.backbone import Backbone


def linear_kinds(backbone: Backbone) -> tuple[str, ...]:
    """Return the names of the linear layers of a decoder layer, in the order of computation."""
    family = backbone.family
    return (*family.qkv, "o_proj", *family.gate_up, "down_proj")


def factor_type(backbone: Backbone) -> torch.dtype | None:
    """Return the type of factors in the sites of this module; None for that of the weights.

    Beside quantised weights the compiled kernels read them in float16: a batch of different LoRAs
    reads all of their factors in each step (ADR 0074).
    """
    is_compiled = backbone.kernels is not None and backbone.weight_format in {"int8", "int4"}
    return torch.float16 if is_compiled else None


def install_linear_sites(
    backbone: Backbone,
    driven: Collection[str],
    codes: tuple[RowCodes, RowCodes],
    *,
    rank: int,
    slots: int,
) -> dict[str, BemSite]:
    """Make sites of all linear layers that are none yet, and return them by module path.

    Args:
        backbone: Base model; sites are installed in it.
        driven: Module paths that are sites already; the upper half begins with the lowest layer.
        codes: Codes of the lower and of the upper half.
        rank: Highest rank of a slot.
        slots: Number of slots.
    """
    first_layer = min(int(path.split(".")[2]) for path in driven)
    sites: dict[str, BemSite] = {}
    for layer in range(len(backbone.layers)):
        kinds = linear_kinds(backbone)
        free = [k for k in kinds if f"model.layers.{layer}.{LINEAR_MODULES[k]}" not in driven]
        sites |= install_sites(
            backbone.model,
            layers=[layer],
            kinds=free,
            rank=rank,
            slots=slots,
            row_codes=codes[layer >= first_layer],
            indexed=False,
            dtype=factor_type(backbone),
        )
    return sites

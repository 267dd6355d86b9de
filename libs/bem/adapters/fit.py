"""Fit of an adapter to a bank: its name, its controller, and the shapes of its factors."""

from collections.abc import Mapping, Sequence

from bem.adapters.artifact import Adapter, AdapterCard, Factors
from bem.adapters.site import TARGET_MODULES, BemSite, default_layers
from bem.controller import Controller
from bem.errors import ArtifactFormatError


def bank_layers(card: AdapterCard, count: int) -> tuple[Sequence[int], int]:
    """Return the driven layers and the feature layer of a bank for one adapter.

    Args:
        card: Card of the adapter.
        count: Layers of the base model.
    """
    if set(card.kinds) <= set(TARGET_MODULES) and card.layers[0] > card.feature_layer:
        return card.layers, card.feature_layer
    first, feature = default_layers(count)
    return range(first, count), feature


def check_name(stated: str, *, folder_name: str | None, base_name: str) -> None:
    """Check the name on an adapter's card.

    Args:
        stated: Name on the card.
        folder_name: Name of the folder that requests ask for; None if any name is right.
        base_name: Name of the base model.

    Raises:
        ArtifactFormatError: The card has another name, or the base model's.
    """
    if folder_name is not None and stated != folder_name:
        raise ArtifactFormatError(
            f"name: the card in folder {folder_name!r} states {stated!r}; they must be equal; "
            "rename the folder or import the adapter again"
        )
    if stated == base_name:
        raise ArtifactFormatError(
            f"name: {stated!r} is the base model's; requests could not tell them apart; import the "
            "adapter by another name"
        )


def check_controller(adapter: Adapter, hidden_size: int) -> None:
    """Check that the controller reads states of the base model's width.

    Args:
        adapter: Adapter that was read.
        hidden_size: Width F of the base model's states.

    Raises:
        ArtifactFormatError: The controller has another shape.
    """
    expected = Controller(hidden_size, adapter.card.rank).inner.weight.shape
    actual = adapter.controller["inner.weight"].shape
    if actual != expected:
        raise ArtifactFormatError(
            f"adapter {adapter.card.name!r}: controller.inner.weight has the shape "
            f"{tuple(actual)}; this base model needs {tuple(expected)}; train the adapter again"
        )


def check_fit(
    adapter: Adapter,
    *,
    constant_code: bool,
    rank: int,
    feature_layer: int,
    driven: Mapping[str, BemSite],
    linear: Mapping[str, BemSite],
) -> list[str]:
    """Check rank, feature layer and factors of an adapter against a bank.

    Args:
        adapter: Adapter that was read.
        constant_code: Whether its controller reads no feature layer.
        rank: Highest rank that the bank takes.
        feature_layer: Feature layer of the bank.
        driven: Sites that controllers drive, by module path.
        linear: Sites in other linear layers, for adapters with a constant code.

    Returns:
        Module paths of ``linear`` that it adapts.

    Raises:
        ArtifactFormatError: The adapter does not fit.
    """
    card = adapter.card
    if card.rank > rank or (card.feature_layer != feature_layer and not constant_code):
        raise ArtifactFormatError(
            f"adapter {card.name!r} has rank {card.rank} and feature layer {card.feature_layer}; "
            f"the bank takes rank <= {rank} and feature layer {feature_layer}; change the settings "
            "RANK and FEATURE_LAYER, or import the adapter again"
        )
    check_factors(card.name, adapter.factors, {**driven, **linear}, rank)
    beyond = [path for path in adapter.factors if path in linear]
    if beyond and not constant_code:
        raise ArtifactFormatError(
            f"adapter {card.name!r}: a controller sets its code, and it adapts {min(beyond)}, "
            "which controllers do not drive; train it on o_proj and down_proj of layers from "
            "FIRST_LAYER on, or without a controller"
        )
    return beyond


def check_factors(
    name: str, factors: Mapping[str, Factors], sites: Mapping[str, BemSite], rank: int
) -> None:
    """Check that each factor has a site of its shape.

    Args:
        name: Name of the adapter in error messages.
        factors: ``{site path: (A [r, d_in], B [d_out, r])}``.
        sites: Sites by module path.
        rank: Rank of the sites.

    Raises:
        ArtifactFormatError: A factor has no site, a higher rank, or another shape.
    """
    for path, (a, b) in factors.items():
        site = sites.get(path)
        if site is None:
            layers = sorted({int(one.split(".")[2]) for one in sites})
            raise ArtifactFormatError(
                f"adapter {name!r}: {path} is no site of this bank; sites are in layers "
                f"{layers[0]} to {layers[-1]}; lower the setting FIRST_LAYER"
            )
        if a.shape[0] > rank:
            raise ArtifactFormatError(
                f"adapter {name!r} has rank {a.shape[0]}; the bank takes rank <= {rank}; raise the "
                "setting RANK"
            )
        if a.shape[1] != site.A.shape[2] or b.shape[0] != site.B.shape[1]:
            raise ArtifactFormatError(
                f"adapter {name!r}: {path} maps {a.shape[1]} to {b.shape[0]} dimensions; the "
                f"site maps {site.A.shape[2]} to {site.B.shape[1]}; train it for this base model"
            )

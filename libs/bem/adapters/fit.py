"""Fit of an adapter to a bank: its name, its controller, and the shapes of its factors."""

from collections.abc import Mapping

from bem.adapters.artifact import Adapter, Factors
from bem.adapters.site import BemSite
from bem.controller import Controller
from bem.errors import ArtifactFormatError


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
            first, *_, last = [one.split(".")[2] for one in sites]
            raise ArtifactFormatError(
                f"adapter {name!r}: {path} is no site of this bank; sites are in layers {first} to "
                f"{last}; lower the setting FIRST_LAYER"
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
